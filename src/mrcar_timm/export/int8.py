"""Networks in 8-bit integers: static quantization, which needs faces to see what values occur."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .graph import REGIONS, require_onnx

if TYPE_CHECKING:
    import onnx

# Faces at once; and what stays in float32: ONNX Runtime averages integers ten times slower.
_BATCH = 8
_FLOAT = {"AveragePool"}


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
        graph: The network from regions, in float32.
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
            operators = {node.op_type for node in onnx.load(prepared).graph.node}
            quantization.quantize_static(
                prepared,
                out,
                _Faces(regions),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=sorted(operators - _FLOAT),
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
            return onnx.load(out)
    finally:
        logger.setLevel(level)
