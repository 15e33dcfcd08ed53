"""Networks as ONNX graphs, by PyTorch's exporter."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from torch import nn

from ..errors import ExportError, MRCARError
from ..exported import require_onnxruntime
from ..layers import CoordAttn
from ..layers.untouched import is_untouched
from ..models.inference import folded
from ..network import Network
from ..regions.geometry import TEMPLATE, box_matrices

if TYPE_CHECKING:
    import onnx

# Images at once; older exporters need a bound.
_MOST = 2**20
#: Names of inputs and output.
REGIONS, FACES, LOGITS = "regions", "faces", "logits"


def require_onnx() -> Any:
    """The module ``onnx``.

    Raises:
        MRCARError: If what exports networks is not installed.
    """
    require_onnxruntime()  # runs what is exported
    try:
        import onnx
        import onnxscript  # noqa: F401 - PyTorch's exporter writes with it
    except ImportError as error:
        raise MRCARError(f'exporting needs ONNX ({error}): pip install "mrcar-timm[onnx]"') from error
    return onnx


def network_graph(network: Network, pooled: bool = True) -> onnx.ModelProto:
    """A network from regions (batch, R, C, h, w) to logits (batch, K), its batch norms folded.

    Args:
        network: The network.
        pooled: Coordinate attention by pooling and convolutions, which is faster in float32; else by means and matrix
            products with the channels last, as 8-bit convolutions have them.

    Raises:
        ExportError: If it cannot be exported.
    """
    example = torch.zeros(2, len(network.regions), network.in_chans, *network.size)
    model = folded(network.model).cpu().float()
    if pooled:
        _pool_in_attention(model)
    _activate_out_of_place(model)
    return with_metadata(to_onnx(model, {REGIONS: example}, [LOGITS], network.name), network)


def face_graph(graph: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    """The same from aligned faces (batch, C, H, W): what cuts the regions out of the face, before the network.

    Args:
        graph: The network from regions, in any precision.
        network: The network itself.
    """
    onnx = require_onnx()
    example = torch.zeros(2, network.in_chans, *network.size)
    split = to_onnx(deepcopy(network.model.split), {FACES: example}, [REGIONS], network.name)
    split.ir_version = graph.ir_version
    del split.opset_import[:]
    split.opset_import.extend(graph.opset_import)
    merged = onnx.compose.merge_models(split, graph, [(REGIONS, REGIONS)], prefix1="split_")
    for value in merged.graph.input:
        value.name = FACES
    for node in merged.graph.node:
        node.input[:] = [FACES if name == f"split_{FACES}" else name for name in node.input]
    return with_metadata(merged, network)


class _CoordAttn(nn.Module):
    """:class:`~mrcar_timm.layers.CoordAttn` with its norm folded: the same by pooling and convolutions.

    ONNX Runtime keeps the memory layout of its convolutions for these, but not for means and matrix products. Rows and
    columns go through the first convolution one after the other instead of together.
    """

    def __init__(self, attn: CoordAttn) -> None:
        super().__init__()
        self.conv1, self.act, self.conv_h, self.conv_w, self.gate = (
            attn.conv1, attn.act, attn.conv_h, attn.conv_w, attn.gate,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        rows, columns = F.avg_pool2d(x, (1, width)), F.avg_pool2d(x, (height, 1))  # (B, C, H, 1), (B, C, 1, W)
        g_h = self.gate(self.conv_h(self.act(self.conv1(rows))))
        g_w = self.gate(self.conv_w(self.act(self.conv1(columns))))
        return x * g_w * g_h


def _pool_in_attention(model: nn.Module) -> None:
    """Put :class:`_CoordAttn` in the place of coordinate attention, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is CoordAttn and isinstance(child.bn1, nn.Identity) and is_untouched(child):
                setattr(module, name, _CoordAttn(child))


def _activate_out_of_place(model: nn.Module) -> None:
    """Turn off ``inplace`` in each ReLU6 after a convolution: the exporter takes twice as long to decompose those."""
    for module in model.modules():
        if isinstance(module, ConvNormAct):  # nothing else reads its convolution's output, so the result is the same
            for act in module.bn.modules():
                if isinstance(act, nn.ReLU6):
                    act.inplace = False


def to_onnx(
    model: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], name: str, axes: Any = None
) -> onnx.ModelProto:
    """A module as an ONNX graph.

    Args:
        model: The module.
        inputs: Examples of its inputs, by name; the first axis of each may have any length.
        outputs: Names of its outputs.
        name: Name of the module, for messages.
        axes: Which axes may have any length, as :func:`torch.onnx.export` takes it; the first ones if None.

    Raises:
        ExportError: If it cannot be exported.
        MRCARError: If what exports is not installed.
    """
    onnx = require_onnx()
    batch = torch.export.Dim("batch", max=_MOST)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        # Some releases print what they do, where results are to be.
        with redirect_stdout(StringIO()), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=axes or tuple({0: batch} for _ in inputs),
            )
        assert program is not None
        graph = program.model_proto
        onnx.checker.check_model(graph)
    except Exception as error:  # the exporter's errors have no common base
        raise ExportError(f"{name} cannot be exported: {_reason(error)}") from error
    finally:
        logger.setLevel(level)
    for part in (graph.graph, *graph.functions):
        _forget_places(part)
    return graph


def with_metadata(graph: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    """The graph with what must be known to use it, as JSON in its metadata."""
    del graph.metadata_props[:]
    values: dict[str, Any] = {
        "name": network.name,
        "weights_sha256": network.sha256,
        "labels": network.labels,
        "regions": network.regions,
        "size": network.size,
        "mean": network.mean,
        "std": network.std,
        # Where five landmarks lie in the canonical frame, which spans 0…1, and the matrix of each region in it.
        "template": TEMPLATE.tolist(),
        "region_matrices": dict(zip(network.regions, box_matrices(network.regions).tolist(), strict=True)),
    }
    for key, value in values.items():
        graph.metadata_props.add(key=key, value=json.dumps(value))
    return graph


def _forget_places(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Drop what the exporter notes about lines of code on this machine, also in graphs within the graph."""
    for node in graph.node:
        _forget(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_places(attribute.g)
    for name in ("input", "output", "value_info", "initializer"):
        for value in getattr(graph, name, ()):
            if not isinstance(value, str):  # functions have the names of theirs alone
                _forget(value)
    _forget(graph)


def _forget(part: Any) -> None:
    part.doc_string = ""
    del part.metadata_props[:]


def _reason(error: BaseException) -> str:
    """The first line of what began it; the exporter's own message is advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
