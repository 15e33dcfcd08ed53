"""Additive angular margin (ArcFace).

Papers:
- `ArcFace: Additive Angular Margin Loss for Deep Face Recognition` - https://arxiv.org/abs/1801.07698
- `Expression Recognition Based on Multi-Regional Coordinate Attention Residuals`, eqs 8-10 -
  https://doi.org/10.1109/ACCESS.2023.3285781
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# The gradient of acos is 1/sin θ; this far inside ±1 it stays below 71 in float32.
_COSINE_LIMIT = 1 - 1e-4


@torch.jit.unused  # training only: a scripted network infers
def arcface_logits(cosine: torch.Tensor, labels: torch.Tensor, *, margin: float, scale: float) -> torch.Tensor:
    r"""Logits whose cross-entropy is the ArcFace loss (eq. 10).

    :math:`s \cdot \cos\theta_j` for every class but the labelled one, and
    :math:`s \cdot \cos(\theta_y + m)` for that one. Where :math:`\theta_y + m` passes π the cosine
    would rise again; from there on :math:`s \cdot (\cos\theta_y - 1 + \cos m)` takes over, which meets
    it at :math:`\theta_y = \pi - m` and keeps falling. The logit therefore falls strictly over all angles.

    The computation runs in float32 or better whatever autocast says. Angles nearer than 0.014 rad to 0
    or π get their margin with the derivative of that limit, so that no gradient grows without bound.

    Args:
        cosine: cos θ, values in -1…1, shape (B, K).
        labels: Class indices, shape (B,), int64, values in 0…K - 1.
        margin: m in radians, 0 ≤ m < π. At 0 the result is ``scale · cosine``.
        scale: s > 0.

    Returns:
        Logits of shape (B, K), float32 (float64 for float64 input).

    Raises:
        ValueError: If a shape, a label or an option is out of range.

    Example:
        >>> arcface_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), margin=0.0, scale=8.0)
        tensor([[8., 0.]])
    """
    if cosine.ndim != 2 or labels.shape != cosine.shape[:1]:
        raise ValueError(f"expected cosine (B, K) and labels (B,), got {tuple(cosine.shape)} and {tuple(labels.shape)}")
    if not 0 <= margin < math.pi:
        raise ValueError(f"margin is an angle in radians, 0 <= margin < pi, got {margin}")
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are class indices of an integer type, got {labels.dtype}")
    _check_range(labels, cosine.shape[1])

    with torch.autocast(cosine.device.type, enabled=False):
        cosine = cosine if cosine.dtype == torch.float64 else cosine.float()
        if margin == 0:
            return scale * cosine
        labels = labels.long()
        target = cosine.gather(1, labels[:, None])  # (B, 1)
        theta = target.clamp(-_COSINE_LIMIT, _COSINE_LIMIT).acos()
        # clamp has no gradient beyond its limits; the straight line there keeps the slope alive.
        excess = target - target.clamp(-_COSINE_LIMIT, _COSINE_LIMIT)
        slope = torch.sin(theta + margin).detach() / torch.sin(theta).detach()
        inside = torch.cos(theta + margin) + slope * excess
        past_pi = target - 1 + math.cos(margin)
        with_margin = torch.where(target > -math.cos(margin), inside, past_pi)
        return scale * cosine.scatter(1, labels[:, None], with_margin)


def _check_range(labels: torch.Tensor, num_classes: int) -> None:
    """Raise for labels out of range; on a GPU gather itself asserts, without waiting for the device."""
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"labels must be in 0…{num_classes - 1}, got {low}…{high}")


class ArcFaceHead(nn.Module):
    r"""Classifier on the hypersphere: logits :math:`s \cdot \cos\theta_j`.

    Features and the class weights are normalized, there is no bias (eqs 8-10). Without labels the
    head gives the logits for inference; with labels those of training, see :func:`arcface_logits`.

    Args:
        in_features: Width D of the embedding.
        num_classes: Number of classes K.
        margin: m in radians, used with labels only.
        scale: s.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, D) to (B, K).

    Example:
        >>> head = ArcFaceHead(512, 7)
        >>> x = torch.rand(4, 512)
        >>> head(x).shape, head(x, torch.tensor([0, 1, 2, 6])).shape
        (torch.Size([4, 7]), torch.Size([4, 7]))
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        margin: float = 0.1,
        scale: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self._has_values = not self.weight.is_meta
        self.reset_parameters()

    @torch.jit.unused
    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)

    @torch.jit.unused
    def init_non_persistent_buffers(self) -> None:
        """Give a head that was made without values, on the meta device, its first ones.

        transformers makes networks so and fills what the weights lack; of modules that it does not know it calls this.
        """
        if not self._has_values:
            self.reset_parameters()
            self._has_values = True

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._has_values = True

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if labels is None:
            return self.scale * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))
        return self._training_logits(x, labels)

    @torch.jit.unused
    def _training_logits(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return arcface_logits(self.cosine(x), labels, margin=self.margin, scale=self.scale)

    @torch.jit.unused
    def cosine(self, x: torch.Tensor) -> torch.Tensor:
        """cos θ of embeddings and classes, (B, D) to (B, K), float32 for training.

        Rounded to bfloat16 it would lose angles below 0.06 rad, hence float32 whatever autocast says.
        """
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.normalize(x.float(), dim=1), F.normalize(self.weight.float(), dim=1))

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, num_classes={self.num_classes}, margin={self.margin}, scale={self.scale}"
        )
