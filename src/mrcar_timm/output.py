"""Write files so that nothing is lost: beside their place first, and into it once they are whole."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

_PREFIX, _SUFFIX = ".mrcar-", ".tmp"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place to write a file in, beside its own; whatever ends the ``with`` block early leaves what was there before.

    Folders are made where they are missing, links are followed, and the file keeps its permissions. What is no file,
    such as ``/dev/stdout`` or a named pipe, is written directly.

    Args:
        path: The file.

    Yields:
        The path to write. It exists and is empty.

    Raises:
        OutputError: If it cannot be written: a full disk, a missing permission, a folder in its place.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "labels.txt")
        >>> with replacing(file) as partial:
        ...     _ = partial.write_text("happiness")
        >>> file.read_text()
        'happiness'
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{_PREFIX}{uuid.uuid4().hex[:12]}{_SUFFIX}")
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise OutputError(f"{path}: a folder, where a file is to be written")
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb"):
            pass
        if mode is not None:
            shutil.copymode(target, partial)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once.

    Raises:
        OutputError: If it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file at once; bytes of file names that are no UTF-8 are written as escapes.

    Raises:
        OutputError: If it cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, values: object) -> None:
    """Write a JSON file at once.

    Raises:
        OutputError: If it cannot be written.
    """
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table at once.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """What to say where a file cannot be written."""
    if isinstance(error, OutputError):
        return error
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); what was there is unchanged")


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written in a folder that is this process's own."""
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):
            file.unlink()


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path] = (), what: str = "the input") -> None:
    """Raise where a file to be written is one to be read, or another one to be written: by any name, through any link.

    Args:
        outputs: Files or folders to be written; None is none.
        inputs: Files or folders to be read.
        what: What an input is.

    Raises:
        OutputError: Naming both.
    """
    known = {key: (path, True) for path in inputs for key in _keys(path)}
    for path in (each for each in outputs if each is not None):
        for key in _keys(path):
            other, is_input = known.setdefault(key, (path, False))
            if is_input:
                name = "" if other == path else f", {other}"
                raise OutputError(f"{path} is {what} itself{name}; name another place to write to")
            if other is not path:
                raise OutputError(f"{path} and {other} are the same file; name two to write to")


def _keys(path: Path) -> set[object]:
    """What tells a file from others: its place without links, and itself if it exists."""
    keys: set[object] = {os.path.normcase(os.path.realpath(path))}
    with suppress(OSError, ValueError):
        status = os.stat(path)
        if status.st_ino and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            keys.add((status.st_dev, status.st_ino))
    return keys


def _mode(path: Path) -> int | None:
    """Type and permissions of what is there; None if there is nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
