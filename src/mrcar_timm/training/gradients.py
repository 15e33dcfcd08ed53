"""A training step's gradients: computed, or on a GPU recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: From regions and targets to the loss and what else is looked at, such as logits.
LossOf = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Gradients:
    """Puts a loss's gradients into a model's parameters, in place of what was there.

    On a GPU the first call records the kernels of forward and backward, some thousands, in a CUDA graph. Launched one
    by one from Python they take longer than they run.

    Args:
        model: Whose parameters.
        loss_of: Loss and logits; on a GPU it must not look at a value, as that would wait for the device.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> gradients = Gradients(layer, lambda x, y: ((layer(x) - y).square().mean(), layer(x)))
        >>> loss, logits = gradients(torch.ones(4, 2), torch.zeros(4, 1))
        >>> layer.weight.grad.shape
        torch.Size([1, 2])
    """

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        self._model, self._loss_of = model, loss_of
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self, regions: torch.Tensor, targets: torch.Tensor, lap: Callable[[str], None] = lambda phase: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logits, without gradients. On a GPU they last until the next call, and all calls have one shape.

        Args:
            regions: Pictures.
            targets: Labels or probabilities.
            lap: Told when "forward" is done; not on a GPU, where it is one with the rest.
        """
        if regions.device.type != "cuda":
            return self._compute(regions, targets, lap)
        if self._graph is None:
            self._record(regions, targets)
        assert self._graph is not None
        self._regions.copy_(regions)
        self._targets.copy_(targets)
        self._graph.replay()
        return self._outputs

    def _compute(
        self, regions: torch.Tensor, targets: torch.Tensor, lap: Callable[[str], None] = lambda phase: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._model.zero_grad()
        loss, logits = self._loss_of(regions, targets)
        lap("forward")
        loss.backward()
        return loss.detach(), logits.detach()

    def _record(self, regions: torch.Tensor, targets: torch.Tensor) -> None:
        self._regions, self._targets = regions.clone(), targets.clone()
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        # Libraries choose their algorithms in the first calls, which must not be recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._compute(self._regions, self._targets)
        torch.cuda.current_stream().wait_stream(stream)
        for buffer, before in buffers:
            buffer.copy_(before)  # those calls have changed the running statistics
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._compute(self._regions, self._targets)


@torch.no_grad()
def climb(model: nn.Module, rho: float) -> list[torch.Tensor]:
    """Move parameters by ρ up the gradient, to where sharpness-aware minimisation takes the gradient it descends.

    ε = ρ·g / ‖g‖ over all parameters. Source: `Sharpness-Aware Minimization for Efficiently Improving
    Generalization` - https://arxiv.org/abs/2010.01412

    Returns:
        What was added to each parameter that has a gradient; :func:`descend` takes it off again.
    """
    moved = _with_gradient(model)
    gradients: list[torch.Tensor] = [p.grad for p in moved if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    steps = list(torch._foreach_mul(gradients, rho / (norm + 1e-12)))
    torch._foreach_add_(moved, steps)
    return steps


@torch.no_grad()
def descend(model: nn.Module, steps: list[torch.Tensor]) -> None:
    """Take off what :func:`climb` added."""
    torch._foreach_sub_(_with_gradient(model), steps)


def _with_gradient(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.grad is not None]
