"""Processes that work for this one, one function after the other, and end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import wraps
from multiprocessing import get_context, parent_process
from queue import SimpleQueue
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from .errors import MRCARError

P = ParamSpec("P")
R = TypeVar("R")

_spawning = threading.Lock()


class OwnProcess:
    """A process that runs functions, one after the other. It begins to load at once, and ends with this process.

    Where it dies, what was submitted raises :class:`concurrent.futures.process.BrokenProcessPool`; :meth:`start` puts
    another one in its place.

    Args:
        begin: What it runs first.
        args: Arguments of that.

    Example:
        >>> with OwnProcess() as process:
        ...     process.submit(abs, -1).result()
        1
    """

    def __init__(self, begin: Callable[..., None] | None = None, *args: Any) -> None:
        self._begin, self._args = begin, args
        self.start()

    def start(self) -> None:
        """Start it, in place of one that died."""
        # Spawned, since PyTorch's threads do not survive a fork.
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), _first, (self._begin, self._args))
        with _spawning, _no_main_program(), _without_interrupts():
            self._pid = self._executor.submit(os.getpid)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a function there."""
        return self._executor.submit(function, *args, **kwargs)

    def close(self) -> None:
        """Let it end what it does, and no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """End it now."""
        self.close()
        if self._pid.done() and not self._pid.cancelled() and self._pid.exception() is None:
            with suppress(OSError):
                os.kill(self._pid.result(), signal.SIGTERM)

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def map_in_processes(
    function: Callable[..., R],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    begin: Callable[..., None] | None = None,
    *args: Any,
) -> Iterator[R]:
    """The results of a function for each job, in order, computed by several processes.

    Args:
        function: Of a module, as the processes import it. Its results and errors are pickled; see :func:`plain_errors`.
        jobs: Its arguments.
        workers: How many processes there are, at most.
        begin: What each process runs first.
        args: Arguments of that.

    Raises:
        MRCARError: If a process dies.

    Example:
        >>> list(map_in_processes(abs, [(-1,), (2,)], 2))
        [1, 2]
    """
    processes = [OwnProcess(begin, *args) for _ in range(min(workers, len(jobs)))]
    free: SimpleQueue[OwnProcess] = SimpleQueue()
    for process in processes:
        free.put(process)

    def run(job: tuple[Any, ...]) -> R:
        process = free.get()
        try:
            return process.submit(function, *job).result()
        finally:
            free.put(process)

    with ThreadPoolExecutor(max(1, len(processes))) as threads:
        try:
            for result in [threads.submit(run, job) for job in jobs]:
                yield result.result()
        except BrokenProcessPool:
            raise MRCARError("a process died, perhaps for want of memory; the same command goes on") from None
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()


def _first(begin: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    """Let this process end with its parent, whatever ends that, and not by Ctrl-C, which its parent hears."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    if begin is not None:
        begin(*args)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Raise the package's errors as ones that any process can unpickle."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MRCARError as error:
            raise MRCARError(str(error)) from None

    return guarded


@contextmanager
def _no_main_program() -> Iterator[None]:
    """Let processes that are spawned not run the main program again, which they do to find what it defines."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are spawned not hear of Ctrl-C, also while they import. Only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
