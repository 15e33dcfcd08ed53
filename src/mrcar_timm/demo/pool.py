"""The process that computes, as the page sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from ..errors import MRCARError
from ..processes import OwnProcess
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
        self._process = OwnProcess(begin, choice)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a function there."""
        return self._process.submit(function, *args, **kwargs)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function there, and wait for it.

        Raises:
            MRCARError: If it raises one, or the process dies, such as for want of memory.
        """
        process = self._process
        try:
            return await asyncio.wrap_future(self.submit(function, *args, **kwargs))
        except BrokenProcessPool:
            if process is self._process:
                self._process = OwnProcess(begin, self._choice)
            raise MRCARError("the computation broke off, perhaps for want of memory; a smaller file may do") from None

    def close(self) -> None:
        """End the process."""
        self._process.close()
