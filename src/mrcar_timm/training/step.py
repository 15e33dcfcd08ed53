"""A training step: its gradients, computed, or on a GPU recorded once and replayed; and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

#: From regions and targets to the loss, and what else is looked at, such as logits.
LossOf = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


class Gradients:
    """Compute the gradients of a loss into the parameters of a model, in place of what was there.

    On a GPU the first call records the kernels of forward and backward, some thousands, in a CUDA graph. Launched one
    by one from Python they take longer than they run.

    Args:
        model: The model whose parameters get them.
        loss_of: The loss, and what else; on a GPU it must not look at a value, as that would wait for the device.

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
    ) -> tuple[torch.Tensor, ...]:
        """The loss, and what else, without gradients.

        On a GPU they last until the next call, and all calls have one shape.

        Args:
            regions: Images.
            targets: Labels or probabilities.
            lap: Called with "forward" when that is done; not on a GPU, where it is one with the rest.
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
    ) -> tuple[torch.Tensor, ...]:
        self._model.zero_grad()
        outputs = self._loss_of(regions, targets)
        lap("forward")
        outputs[0].backward()
        return tuple(output.detach() for output in outputs)

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


#: Phases of a step. On a GPU forward and backward are one, which counts as backward.
PHASES = ("data", "forward", "backward", "optimizer")


class Stopwatch:
    """Add up seconds by phase; on a GPU those of its own stream, without making it wait.

    Args:
        device: The device that works.

    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> watch.start()
        >>> watch.lap("data")
        >>> list(watch.seconds())
        ['data', 'forward', 'backward', 'optimizer']
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []  # seconds, or events of the GPU

    def start(self) -> None:
        """Begin a step."""
        self._mark("")

    def lap(self, phase: str) -> None:
        """Count the time since the last mark for this phase."""
        self._mark(phase)

    def _mark(self, phase: str) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Seconds by phase since the first start."""
        if self._on_gpu:
            torch.cuda.synchronize()
        total = dict.fromkeys(PHASES, 0.0)
        for (_, before), (phase, now) in zip(self._marks, self._marks[1:], strict=False):
            if phase:
                total[phase] += before.elapsed_time(now) / 1000 if self._on_gpu else now - before
        return total
