"""Networks in 8-bit integers: static quantization, which needs faces to see what values occur."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .network import REGIONS, require_onnx

if TYPE_CHECKING:
    import onnx

# Faces that calibrate at once.
_BATCH = 8
# Convolutions are what takes the time; the others follow them without a way back to float32. Everything else, such as
# attention, embedding and head, is as fast or faster in float32, and more exact.
_IN_INTEGERS = ["Conv", "Relu", "Clip", "MaxPool", "Concat"]
_ACTIVATIONS = {"Relu", "Clip", "Mul", "HardSigmoid", "HardSwish", "Sigmoid"}


class _Faces:
    """The regions of faces, as ONNX Runtime's calibration reads them."""

    def __init__(self, regions: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(np.split(regions, range(_BATCH, len(regions), _BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {REGIONS: batch}


def quantized(graph: onnx.ModelProto, regions: np.ndarray) -> onnx.ModelProto:
    """A network that computes in 8 bits where that is faster.

    Activations are unsigned, with the range between the least and the greatest value that occurs for the faces given;
    weights are signed, with a range for each channel.

    Args:
        graph: The network from regions, in float32, its attention not pooled.
        regions: (N, R, C, h, w), normalized, of a hundred faces or more with all expressions.
    """
    onnx = require_onnx()
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises what is done here
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, prepared, out = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "out"))
            onnx.save(graph, plain)
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                out,
                _Faces(regions),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=_IN_INTEGERS,
                nodes_to_exclude=_stems(onnx.load(prepared).graph),
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
            return onnx.load(out)
    finally:
        logger.setLevel(level)


def _stems(graph: onnx.GraphProto) -> list[str]:
    """The first convolution of each branch and the next one, where that is depthwise.

    The channels between the two have ranges so different that one scale for all loses the narrow ones; in MobileNet
    that is most of what 8 bits cost.
    """
    makers = {output: node for node in graph.node for output in node.output}
    stems: list[str] = []
    for node in graph.node:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type != "Conv" or groups == 1:
            continue
        before = makers.get(node.input[0])
        while before is not None and before.op_type in _ACTIVATIONS:
            before = makers.get(before.input[0])
        if before is not None and before.op_type == "Conv" and not _follows_a_conv(before, makers):
            stems += [before.name, node.name]
    return stems


def _follows_a_conv(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    before = makers.get(node.input[0])
    while before is not None and before.op_type != "Conv":
        before = makers.get(before.input[0]) if before.input else None
    return before is not None
