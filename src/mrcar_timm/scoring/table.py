"""The table of faces that scoring writes: a row for each face, and for each image without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow

from ..errors import MRCARError
from ..recognizer import FACE_COLUMNS, Faces

_TYPES = {"face": pyarrow.int32(), "source": pyarrow.string(), "expression": pyarrow.string()}


def table_schema(labels: Sequence[str], embeddings: bool) -> pyarrow.Schema:
    """Columns of the table and their types.

    As in a table of faces (:data:`~mrcar_timm.recognizer.FACE_COLUMNS`): ``file``; ``face``, from 1, or 0 where there
    is none; ``x1``, ``y1``, ``x2``, ``y2``; ``score``; ``source``; ``expression``; ``probability``; the probability of
    each expression by its name. Further ``landmarks``, ten numbers, x and y of each; ``embedding``, if it is asked for;
    and ``error``, why an image could not be used. Coordinates are in pixels, numbers are float32.

    Args:
        labels: The expressions.
        embeddings: Whether there is a column for embeddings.

    Raises:
        MRCARError: If an expression has the name of another column.
    """
    names = ["file", *FACE_COLUMNS, "landmarks", "embedding", "error"]
    for label in labels:
        if label in names:
            raise MRCARError(f"the expression {label!r} has the name of a column of the table; train with another one")
    numbers = pyarrow.list_(pyarrow.float32())
    fields: list[Any] = [("file", pyarrow.string())]
    fields += [(name, _TYPES.get(name, pyarrow.float32())) for name in (*FACE_COLUMNS, *labels)]
    fields += [("landmarks", numbers), *([("embedding", numbers)] if embeddings else []), ("error", pyarrow.string())]
    return pyarrow.schema(fields)


def face_rows(name: str, faces: Faces | Exception) -> list[dict[str, Any]]:
    """The rows of an image: its faces, or one with ``face`` 0 where there are none, and the error if there is one.

    Args:
        name: What the results call the image.
        faces: Its faces, or the error that was raised.
    """
    # Names of files may have bytes that are no UTF-8.
    file = name.encode("utf-8", "backslashreplace").decode()
    if isinstance(faces, Exception):
        return [{"file": file, "face": 0, "error": str(faces).encode("utf-8", "backslashreplace").decode()}]
    return [
        {
            "file": file,
            "face": number,
            **dict(zip(("x1", "y1", "x2", "y2"), face.box, strict=True)),
            "score": face.score,
            "source": face.source,
            "expression": face.expression,
            "probability": face.probability,
            **face.probabilities,
            "landmarks": [value for point in face.landmarks for value in point],
            "embedding": face.embedding,
        }
        for number, face in enumerate(faces, start=1)
    ] or [{"file": file, "face": 0}]
