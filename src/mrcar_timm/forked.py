"""PyTorch in a process that was forked from one in which it had run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_ran_in: int | None = None


class ForkWarning(RuntimeWarning):
    """PyTorch runs on one thread, since the process was forked from one in which it had run on several."""


def note_run() -> None:
    """Note that PyTorch runs here; on one thread if it ran before the process was forked."""
    global _ran_in
    if _ran_in == os.getpid():
        return
    if _ran_in is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "PyTorch ran before this process was forked, and runs on one thread here; make the recognizer after the "
            "fork, or spawn processes",
            ForkWarning,
            stacklevel=3,
        )
    _ran_in = os.getpid()


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function of PyTorch's without gradients, also in a forked process.

    A fork takes no threads along, for which PyTorch's then wait for good. In such a process it is set to one thread, as
    its own data loader does.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        note_run()
        with torch.inference_mode():
            return function(*args, **kwargs)

    return guarded
