"""How ``mrcar predict`` gives results: a line for each face, JSON Lines, or a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..output import replacing
from .console import emit, on_terminal, printable


class JsonLines:
    """Prints a result as a line of JSON, in ASCII."""

    def __call__(self, result: dict[str, Any]) -> None:
        emit(json.dumps(result))


class Columns:
    """Prints rows: aligned below a header on a terminal, else separated by tabs.

    Args:
        header: Names of the columns.
        widths: Lowest widths of all but the last; those of the names if left out.
    """

    def __init__(self, *header: str, widths: Sequence[int] = ()) -> None:
        self._aligned = on_terminal()
        self._widths = widths or [max(10, len(name)) for name in header[:-1]]
        if self._aligned:
            self(*header)

    def __call__(self, *values: str) -> None:
        if self._aligned:
            *columns, last = values
            padded = (value.ljust(width) for value, width in zip(columns, self._widths, strict=True))
            emit("  ".join([*padded, last]))
        else:
            emit("\t".join(values))


class Lines:
    """Prints a line for each face of a result.

    Args:
        labels: The expressions that there are.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        widths = (4, 19, max(14, *map(len, labels)), 11, 9)
        self._print = Columns("face", "box x1 y1 x2 y2", "expression", "probability", "source", "image", widths=widths)

    def __call__(self, result: dict[str, Any]) -> None:
        name = printable(result["file"])
        faces = result.get("faces")
        if faces is None:
            self._print("", "", "cannot be used", "", "", name)
        elif not faces:
            self._print("0", "", "no face found", "", "", name)
        for face in faces or ():
            box = " ".join(f"{v:.0f}" for v in face["box"])
            self._print(
                str(face["number"]), box, face["expression"], f"{face['probability']:.1%}", face["source"], name
            )


class FaceTable:
    """Writes results to a CSV file: a row for each face; one with face 0 where there is none, or an error.

    Used in a ``with`` statement.

    Args:
        path: The file; nothing is written if None.
        labels: The expressions that there are.

    Raises:
        OutputError: If it cannot be written. What was there before stays.
    """

    def __init__(self, path: Path | None, labels: tuple[str, ...]) -> None:
        from ..recognizer import FACE_COLUMNS, face_row

        self._path, self._row = path, face_row
        self._columns = ("file", *FACE_COLUMNS, *labels, "error")
        self._beside = ExitStack()

    def __enter__(self) -> FaceTable:
        if self._path is not None:
            partial = self._beside.enter_context(replacing(self._path))
            file = open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace")
            self._writer = csv.writer(self._beside.enter_context(file))
            self._writer.writerow(self._columns)
        return self

    def __exit__(self, *error: Any) -> None:
        self._beside.__exit__(*error)

    def add(self, result: dict[str, Any]) -> None:
        """Add the faces of an image."""
        if self._path is None:
            return
        faces, error = result.get("faces"), result.get("error", "")
        rows = [self._row(face) for face in faces or ()] or [[0, *[""] * (len(self._columns) - 3)]]
        self._writer.writerows([result["file"], *row, error] for row in rows)
