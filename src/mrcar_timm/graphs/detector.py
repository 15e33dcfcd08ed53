"""MTCNN's networks as ONNX graphs, with facenet-pytorch's weights; see :class:`~mrcar_timm.faces.networks.Networks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..faces.networks import CELL, O_SIDE, R_SIDE
from ..faces.torch_networks import TorchNetworks
from .network import require_onnx, to_onnx

if TYPE_CHECKING:
    import onnx


class _PNet(nn.Module):
    """Pixels (H, W, 3), values 0…255, to scores (h, w) and offsets (h, w, 4).

    Normalization is in the first convolution, and PReLU behind the maximum, as in :mod:`~mrcar_timm.faces.pnet`.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        slope = net.prelu1.weight
        negative, others = (slope < 0).nonzero()[:, 0], (slope >= 0).nonzero()[:, 0]
        self.channels, self.negative = len(slope), len(negative)
        order = torch.cat([negative, others])
        weight = net.conv1.weight / 128
        bias = net.conv1.bias - 127.5 * weight.sum((1, 2, 3))
        self.conv1 = _conv(
            torch.cat([weight[order], slope[negative, None, None, None] * weight[negative]]),
            torch.cat([bias[order], slope[negative] * bias[negative]]),
        )
        self.prelu1 = nn.PReLU(len(others))
        self.prelu1.weight = nn.Parameter(slope[others], False)
        self.conv2 = _conv(net.conv2.weight[:, order], net.conv2.bias)
        self.pool1, self.prelu2, self.conv3, self.prelu3 = net.pool1, net.prelu2, net.conv3, net.prelu3
        # A softmax over two classes depends only on the difference of the logits.
        score, box = net.conv4_1, net.conv4_2
        self.conv4 = _conv(
            torch.cat([score.weight[1:] - score.weight[:1], box.weight]),
            torch.cat([score.bias[1:] - score.bias[:1], box.bias]),
        )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.pool1(self.conv1(pixels.permute(2, 0, 1)[None]))
        low = torch.maximum(x[:, : self.negative], x[:, self.channels :])
        x = torch.cat([low, self.prelu1(x[:, self.negative : self.channels])], 1)
        x = self.conv4(self.prelu3(self.conv3(self.prelu2(self.conv2(x)))))[0]  # (5, h, w)
        return x[0].sigmoid(), x[1:].permute(1, 2, 0)


class _CropNet(nn.Module):
    """Crops (N, side, side, 3), values 0…255, to offsets (N, 4), landmarks (N, 10) of the O-Net, and scores (N,)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *places, scores = self.net((crops.permute(0, 3, 1, 2) - 127.5) / 128)
        return (*places, scores[:, 1])


def _conv(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
    conv.weight, conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    return conv


def detector_graphs() -> dict[str, onnx.ModelProto]:
    """Graphs by name: "pnet", "rnet", "onet" and "nms"."""
    modules = TorchNetworks().modules
    height, width = torch.export.Dim("height", min=CELL), torch.export.Dim("width", min=CELL)
    return {
        "pnet": to_onnx(
            _PNet(modules.pnet), {"pixels": torch.zeros(64, 96, 3)}, ["scores", "offsets"], "the P-Net",
            ({0: height, 1: width},),
        ),
        "rnet": to_onnx(
            _CropNet(modules.rnet), {"crops": torch.zeros(2, R_SIDE, R_SIDE, 3)}, ["offsets", "scores"], "the R-Net"
        ),
        "onet": to_onnx(
            _CropNet(modules.onet), {"crops": torch.zeros(2, O_SIDE, O_SIDE, 3)}, ["offsets", "landmarks", "scores"],
            "the O-Net",
        ),
        "nms": _nms_graph(),
    }  # fmt: skip


def _nms_graph() -> onnx.ModelProto:
    """Which boxes stay: rows of batch, class and index, the best first."""
    onnx = require_onnx()
    helper, kinds = onnx.helper, onnx.TensorProto
    inputs = [
        helper.make_tensor_value_info("boxes", kinds.FLOAT, [1, "count", 4]),
        helper.make_tensor_value_info("scores", kinds.FLOAT, [1, 1, "count"]),
        helper.make_tensor_value_info("most", kinds.INT64, [1]),
        helper.make_tensor_value_info("overlap", kinds.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("kept", kinds.INT64, ["number", 3])
    node = helper.make_node("NonMaxSuppression", [value.name for value in inputs], ["kept"])
    graph = helper.make_graph([node], "nms", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
