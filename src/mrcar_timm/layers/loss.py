"""Cross-entropy and ArcFace loss for labels that may be uncertain.

Papers:
- `ArcFace: Additive Angular Margin Loss for Deep Face Recognition` - https://arxiv.org/abs/1801.07698
- `Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution` -
  https://arxiv.org/abs/1608.01041
- `mixup: Beyond Empirical Risk Minimization` - https://arxiv.org/abs/1710.09412
"""

import torch
import torch.nn.functional as F

from .arcface import arcface_logits


def soft_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    r"""Cross-entropy expected over uncertain labels.

    With probabilities :math:`q_{nk}` of the labels, class weights :math:`w` and smoothing :math:`ε`

    .. math::
        L = \frac{\sum_n \sum_k q_{nk}\, \ell_{nk}}{\sum_n \sum_k q_{nk}\, w_k}, \quad
        \ell_{nk} = -(1 - ε)\, w_k \log p_{nkk} - \frac{ε}{K} \sum_c w_c \log p_{nkc}

    where :math:`p_{nk}` is the softmax of the logits that hold if k is the label: with a margin they
    differ from label to label, without they are all the same. For certain labels this is
    :func:`torch.nn.functional.cross_entropy`; for labels mixed from two it is the mix of their losses.

    Args:
        logits: (B, K), or (B, K, K) whose row k holds those for the label k.
        targets: Labels (B,), integers, or their probabilities (B, K).
        class_weights: (K,).
        label_smoothing: ε, 0…1.

    Returns:
        The mean loss, a scalar, float32 or better.

    Raises:
        ValueError: If the shapes do not go together.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0]])
        >>> certain, torn = torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0]])
        >>> float(soft_cross_entropy(logits, torn) - soft_cross_entropy(logits, certain))
        1.0
    """
    batch, k = logits.shape[0], logits.shape[-1]
    if logits.shape not in ((batch, k), (batch, k, k)):
        raise ValueError(f"expected logits (B, K) or (B, K, K), got {tuple(logits.shape)}")
    q = label_probabilities(targets, k)
    if len(q) != batch:
        raise ValueError(f"expected targets for {batch} samples, got {len(q)}")
    q = q.to(logits.device, torch.promote_types(logits.dtype, torch.float32))
    log_p = logits.to(q.dtype).log_softmax(-1)
    if log_p.ndim == 2:
        log_p = log_p[:, None].expand(batch, k, k)
    w = q.new_ones(k) if class_weights is None else class_weights.to(q)
    own = w * log_p.diagonal(dim1=1, dim2=2)  # (B, K)
    every = (w * log_p).mean(2)  # (B, K)
    loss = (1 - label_smoothing) * own + label_smoothing * every
    return -(q * loss).sum() / (q * w).sum()


def arcface_loss(
    cosine: torch.Tensor,
    targets: torch.Tensor,
    *,
    margin: float,
    scale: float,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    r"""ArcFace loss (eq. 10), expected over uncertain labels.

    The margin belongs to the label; where the label is uncertain, each candidate has its own loss, with
    the margin on it, which counts by its probability: :math:`\sum_k q_k L_{ArcFace}(k)`.

    Args:
        cosine: cos θ, values in -1…1, shape (B, K).
        targets: Labels (B,), integers, or their probabilities (B, K): votes, or labels mixed by mixup.
        margin: m in radians, 0 ≤ m < π.
        scale: s > 0.
        class_weights: (K,), as in :func:`soft_cross_entropy`.
        label_smoothing: ε, 0…1.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: If a shape or an option is out of range.

    Example:
        >>> cosine = torch.tensor([[0.5, 0.1, 0.1]])
        >>> votes = torch.tensor([[0.8, 0.2, 0.0]])
        >>> with_margin, without = (arcface_loss(cosine, votes, margin=m, scale=8.0) for m in (0.5, 0.0))
        >>> bool(with_margin > without)
        True
    """
    logits = logits_by_label(cosine, margin=margin, scale=scale)
    return soft_cross_entropy(logits, targets, class_weights, label_smoothing)


def logits_by_label(cosine: torch.Tensor, *, margin: float, scale: float) -> torch.Tensor:
    """ArcFace's logits for each label that there could be: (B, K) to (B, K, K), row k with the margin on class k."""
    batch, k = cosine.shape
    labels = torch.arange(k, device=cosine.device).repeat(batch)
    return arcface_logits(cosine.repeat_interleave(k, 0), labels, margin=margin, scale=scale).view(batch, k, k)


def label_probabilities(targets: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Labels (B,) or probabilities (B, K) as probabilities (B, K).

    Raises:
        ValueError: If the shape is another one, a label is out of range, or probabilities are negative
            or do not add up to 1.
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        on_cpu = targets.device.type == "cpu"  # a look at values makes a GPU wait
        if on_cpu and len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
            raise ValueError(f"labels must be in 0…{num_classes - 1}, got {int(targets.min())}…{int(targets.max())}")
        return F.one_hot(targets.long(), num_classes).float()
    if targets.ndim != 2 or targets.shape[1] != num_classes or not targets.is_floating_point():
        raise ValueError(
            f"expected labels (B,) or probabilities (B, {num_classes}), got {tuple(targets.shape)} of {targets.dtype}"
        )
    if targets.device.type == "cpu" and ((targets < 0).any() or ((targets.sum(1) - 1).abs() > 1e-3).any()):
        raise ValueError("probabilities must not be negative and must add up to 1")
    return targets
