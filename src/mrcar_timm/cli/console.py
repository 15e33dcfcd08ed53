"""Consoles, progress bars, and options that several commands have."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import OutputError

T = TypeVar("T")

# Control characters, marks that turn the direction of text, bytes of names that are no UTF-8, line separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji
_ANY_WIDTH = 10_000
_SECONDS_BETWEEN_LINES = 60
_SIGPIPE = 13  # signal.SIGPIPE, which Windows does not have


def printable(text: str, keep: str = "") -> str:
    """A text on one line, in which no terminal finds commands: what is not printable becomes an escape.

    Args:
        text: Such as the name of a file.
        keep: Characters that stay.

    Example:
        >>> printable("a\\nb\\x1b[31m[red]")
        'a\\\\nb\\\\x1b[31m[red]'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNPRINTABLE and char not in _JOINERS + keep
        else char
        for char in text
    )


class PlainConsole(Console):
    """Prints text as it is: nothing in it is markup, no line is cut, and where nobody looks, no table is either."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        return super().render_str(printable(text, keep="\n\t"), **kwargs)

    def on_broken_pipe(self) -> None:
        raise closed_pipe()

    @property  # type: ignore[misc]  # Rich's can be set, too
    def size(self) -> ConsoleDimensions:
        if self.is_terminal or "COLUMNS" in os.environ:
            return super().size
        return ConsoleDimensions(_ANY_WIDTH, super().size.height)


# Results go to stdout, all else to stderr, so that `mrcar predict --json … | jq` works.
out = PlainConsole()
err = PlainConsole(stderr=True)


def emit(line: str) -> None:
    """Print a line of results at once, so that it is not lost by what happens next."""
    if sys.stdout is None:
        raise OutputError("the results cannot be printed: the output is closed")
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise closed_pipe() from None
    except OSError as error:
        raise OutputError(f"the results cannot be printed ({error.strerror})") from error


def closed_pipe() -> typer.Exit:
    """The end of a command whose reader has gone, such as ``head``: without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
    return typer.Exit(128 + _SIGPIPE)


def on_terminal() -> bool:
    """Whether results are printed on a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_anything() -> None:
    """Let streams print what their encoding lacks, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


DataName = Literal["fer2013", "ferplus", "rafdb", "ckplus", "jaffe", "imagefolder"]
Model = Annotated[
    str | None,
    typer.Option(help="Registered network, run or exported folder, hf-hub:ORG/NAME; the default weights if left out."),
]
Backend = Annotated[
    Literal["torch", "onnx", "auto"] | None,
    typer.Option(help="What runs the network: PyTorch, ONNX Runtime, or the latter where it is installed."),
]
Device = Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1, mps, …")]
Data = Annotated[
    Path,
    typer.Option(help="The data set: its folder, a table of paths and labels, or Kaggle's fer2013.csv.", exists=True),
]
FacesOf = Annotated[
    Literal["largest", "all", "crop"] | None,
    typer.Option("--faces", help="Faces of your photos: the largest, all, or each image is a crop of a face."),
]
Name = Annotated[DataName | None, typer.Option("--name", help="Which data set it is; by its layout if left out.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="Recipe of the package, or a YAML file; by the data if left out.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the recipe, such as lr=1e-3 or augmentation.degrees=30; can be repeated."),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")]


@contextmanager
def counter(description: str, unit: str, total: int | None = None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show on stderr how much is done and how fast: a progress bar, or where nobody looks a line a minute.

    Args:
        description: What is done.
        unit: What is counted.
        total: How many there are, if that is known.
        done: How many were done before.

    Yields:
        Called with how many more are done.
    """
    begin = told = time.perf_counter()
    new = 0
    shown = err.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not shown) as progress:
        task = progress.add_task(description, total=total, completed=done, rate="")

        def advance(more: int) -> None:
            nonlocal new, told
            new += more
            now = time.perf_counter()
            rate = f"{new / (now - begin):.1f} {unit} a second"
            progress.update(task, advance=more, rate=rate)
            if not shown and now - told > _SECONDS_BETWEEN_LINES:
                of = "" if total is None else f" of {total:,}"
                err.print(f"{description}: {done + new:,}{of} {unit}, {rate}")
                told = now

        yield advance


def bar(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Show a progress bar on stderr while a loop runs; the total is the length where it has one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Rich would send what is printed meanwhile to where the bar is, away from a file or pipe.
    shown = err.is_terminal
    with Progress(
        *columns, console=err, transient=True, disable=not shown, redirect_stdout=shown and on_terminal()
    ) as progress:
        yield from progress.track(iterable, total=total, description=description)
