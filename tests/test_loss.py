"""Losses for uncertain labels, against sums written out by hand in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from mrcar_timm.layers import arcface_logits, arcface_loss, soft_cross_entropy
from mrcar_timm.training.batches import mixup

MARGIN, SCALE = 0.3, 8.0


def by_hand(cosine, targets, margin=MARGIN, scale=SCALE, weights=None, smoothing=0.0):
    """Expected ArcFace loss: for each candidate label its own logits, softmax and logarithm, one float at a time."""
    k = len(cosine[0])
    weights = weights or [1.0] * k
    total = mass = 0.0
    for row, q in zip(cosine, targets, strict=True):
        for label in range(k):
            logits = [scale * c for c in row]
            logits[label] = scale * math.cos(math.acos(row[label]) + margin)
            log_sum = math.log(sum(math.exp(z) for z in logits))
            log_p = [z - log_sum for z in logits]
            loss = -(1 - smoothing) * weights[label] * log_p[label]
            loss -= smoothing / k * sum(w * p for w, p in zip(weights, log_p, strict=True))
            total += q[label] * loss
            mass += q[label] * weights[label]
    return total / mass


COSINE = [[0.6, -0.2, 0.1], [0.05, 0.4, -0.7]]
VOTES = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]])
@pytest.mark.parametrize("margin", [0.0, MARGIN])
def test_arcface_loss_of_votes(margin, weights, smoothing):
    cosine = torch.tensor(COSINE, dtype=torch.float64)
    loss = arcface_loss(
        cosine,
        torch.tensor(VOTES, dtype=torch.float64),
        margin=margin,
        scale=SCALE,
        class_weights=None if weights is None else torch.tensor(weights),
        label_smoothing=smoothing,
    )
    assert float(loss) == pytest.approx(by_hand(COSINE, VOTES, margin, SCALE, weights, smoothing), rel=1e-9)


def test_gradient_of_the_loss_of_votes():
    cosine = torch.tensor(COSINE, dtype=torch.float64, requires_grad=True)
    votes = torch.tensor(VOTES, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: arcface_loss(c, votes, margin=MARGIN, scale=SCALE), cosine)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_certain_labels_give_pytorchs_loss(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (20,), generator=generator)
    weights = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, weights, smoothing), expected)
    one_hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot, weights, smoothing), expected)
    cosine = torch.tanh(logits)
    expected = F.cross_entropy(
        arcface_logits(cosine, labels, margin=MARGIN, scale=SCALE), labels, weights, label_smoothing=smoothing
    )
    options = {"margin": MARGIN, "scale": SCALE, "class_weights": weights, "label_smoothing": smoothing}
    torch.testing.assert_close(arcface_loss(cosine, labels, **options), expected)


def test_uncertain_labels_without_weights_give_pytorchs_loss():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 4, generator=generator)
    votes = torch.rand(9, 4, generator=generator).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(logits, votes), F.cross_entropy(logits, votes))


def test_mixed_labels_give_the_mix_of_the_losses():
    """λ L(own) + (1 - λ) L(other): what mixup's authors compute."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (8,), generator=generator)
    marks = torch.arange(8.0).reshape(8, 1, 1, 1, 1)
    _, targets = mixup(marks, F.one_hot(labels, 8).float(), 0.4, torch.Generator().manual_seed(3))
    _, pairs = mixup(marks, torch.eye(8), 0.4, torch.Generator().manual_seed(3))
    cosine = torch.tanh(torch.randn(8, 8, generator=generator))
    total = 0.0
    for row in range(8):
        for other, part in enumerate(pairs[row].tolist()):
            if part:
                label = labels[other : other + 1]
                logits = arcface_logits(cosine[row : row + 1], label, margin=MARGIN, scale=SCALE)
                total += part * float(F.cross_entropy(logits, label))
    assert float(arcface_loss(cosine, targets, margin=MARGIN, scale=SCALE)) == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ((2, 3), torch.tensor([0, 3]), "labels must be in 0…2, got 0…3"),
        ((2, 3), torch.tensor([0.5, 0.5]), "expected labels"),
        ((2, 3), torch.tensor([[0.5, 0.5], [0.5, 0.5]]), "expected labels"),
        ((2, 3), torch.tensor([[0.5, 0.6, 0.0], [1.0, 0.0, 0.0]]), "add up to 1"),
        ((2, 3), torch.tensor([[1.5, -0.5, 0.0], [1.0, 0.0, 0.0]]), "must not be negative"),
        ((2, 3), torch.tensor([0, 1, 2]), "expected targets for 2 samples, got 3"),
        ((2, 3, 4), torch.tensor([0, 1]), "expected logits"),
    ],
)
def test_wrong_shapes_and_labels(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        soft_cross_entropy(torch.zeros(logits), targets)
