"""Progress of long loops, which callers may show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps a loop to report its progress; the command line draws bars."""

    def __call__(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]: ...


def silent(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show no progress."""
    return iterable
