"""How ``mrcar predict`` prints results: a line for each face, or JSON Lines."""

from __future__ import annotations

import json
from typing import Any

from .console import emit, on_terminal, printable


class JsonLines:
    """Prints a result as a line of JSON, in ASCII."""

    def __call__(self, result: dict[str, Any]) -> None:
        emit(json.dumps(result))


class Lines:
    """Prints a line for each face of a result: aligned columns with a header on a terminal, else separated by tabs.

    Args:
        labels: The expressions that there are.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._aligned = on_terminal()
        self._widths = (4, 19, max(14, *map(len, labels)), 11, 9)
        if self._aligned:
            self._print("face", "box x1 y1 x2 y2", "expression", "probability", "source", "image")

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

    def _print(self, *values: str) -> None:
        if self._aligned:
            *columns, last = values
            padded = (value.ljust(width) for value, width in zip(columns, self._widths, strict=True))
            emit("  ".join([*padded, last]))
        else:
            emit("\t".join(values))
