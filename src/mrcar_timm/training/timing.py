"""Where the time of training goes."""

from __future__ import annotations

import time
from typing import Any

import torch

#: Of a training step. On a GPU forward and backward are one, which counts as backward.
PHASES = ("data", "forward", "backward", "optimizer")


class Stopwatch:
    """Adds up seconds by phase; on a GPU those of its own stream, without making it wait.

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
        """What passed since the last mark belongs to this phase."""
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
