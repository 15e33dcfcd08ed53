"""The process that computes, as the page sees it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import ParamSpec, TypeVar

from ..errors import MRCARError
from .worker import Choice, begin

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """Runs functions in a process of its own, one after the other. A process that dies is replaced.

    Args:
        choice: What it loads at the start.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._start()

    def _start(self) -> None:
        # Spawned, since PyTorch's threads do not survive a fork.
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), begin, (self._choice,))
        with _no_main_program():
            self.submit(int)  # it begins to load now

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a function there."""
        return self._executor.submit(function, *args, **kwargs)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function there, and wait for it.

        Raises:
            MRCARError: If it raises one, or the process dies, such as for want of memory.
        """
        executor = self._executor
        try:
            return await asyncio.wrap_future(self.submit(function, *args, **kwargs))
        except BrokenProcessPool:
            if executor is self._executor:
                self._start()
            raise MRCARError("the computation broke off, perhaps for want of memory; a smaller file may do") from None

    def close(self) -> None:
        """End the process."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _no_main_program() -> Iterator[None]:
    """Let processes that are spawned not run the main program again, which they do to find what it defines."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
