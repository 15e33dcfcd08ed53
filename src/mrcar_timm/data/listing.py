"""Labelled images of a user: class folders, or a table of files and labels. Nothing is decoded here."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, OutputError
from ..images import find_images, is_image_file
from ..output import check_outputs, write_csv

#: What a folder or the column "split" may say.
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test",
}  # fmt: skip
#: What a column may be called, by what it means. Columns of other names are probabilities of classes where there is no
#: label.
_COLUMNS = {
    "path": ("path", "file_name", "filename", "file", "image"),
    "label": ("label", "labels", "class", "expression"),
    "split": ("split",),
    "subject": ("subject", "subject_id", "person"),
    "weight": ("weight",),
}
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "labels.csv", "labels.parquet")
_LAYOUT = (
    "expected <class>/*.jpg, perhaps with train, val and test above; or a table (CSV, Parquet) with the columns path "
    "and label"
)


@dataclass(frozen=True)
class LabelledFile:
    """An image file and what is said about it.

    Attributes:
        name: Path from the root, with forward slashes.
        label: Name of the class; "" where there are ``shares`` alone.
        shares: Probabilities by class, or None.
        split: "train", "validation", "test", or "" where none is named.
        subject: Who is shown; "" if that is not known.
        weight: How often it is drawn in training, against the others.
    """

    name: str
    label: str
    shares: Mapping[str, float] | None = None
    split: str = ""
    subject: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Attributes:
        root: Folder that the names start from.
        files: The files.
        classes: Names of the classes: those of folders and labels sorted, those of columns in their order.
        left_out: Reasons by name, of what cannot be used.
        warnings: What the user may want to know.
    """

    root: Path
    files: tuple[LabelledFile, ...]
    classes: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


LEFT_OUT = "left_out.csv"
_LEFT_OUT_COLUMNS = ("file", "reason")


def write_left_out(left_out: Mapping[str, str], file: Path) -> None:
    """Write a table of files that are not used, with the reasons."""
    write_csv(file, _LEFT_OUT_COLUMNS, left_out.items())


def list_files(path: Path) -> Listing:
    """The labelled images of a folder or a table.

    Args:
        path: A folder with a folder for each class, perhaps below ``train``, ``val`` and ``test``; or a table (CSV,
            JSON lines, Parquet), or a folder with one called metadata or labels, as ImageFolder of Hugging Face has it.

    Raises:
        DataError: If nothing is found, or the table cannot be understood.
    """
    if path.is_file():
        found = _from_table(path.parent, path, "")
    elif path.is_dir():
        found = _from_folder(path)
    else:
        raise DataError(f"{path}: no such file or folder")
    if not found.files:
        first = next(iter(found.left_out.items()), None)
        raise DataError(f"{path}: no labelled images; " + (f"{first[0]}: {first[1]}" if first else _LAYOUT))
    return found


def is_labelled(path: Path) -> bool:
    """Whether a path seems to hold labelled images of a user."""
    if path.is_file():
        return path.suffix.lower() in (".csv", ".parquet", ".jsonl")
    return path.is_dir() and any(entry.is_dir() or entry.name in _TABLES for entry in _entries(path))


def check_beside(out: Path | None, path: Path) -> None:
    """Raise where a file to be written is a file of a data set: itself, a table, or an image.

    Args:
        out: The file to be written, if there is one.
        path: The data set.

    Raises:
        OutputError: Naming the file.
    """
    if out is None:
        return
    check_outputs([out], [path], "the data set")
    root = path if path.is_dir() else path.parent
    if out.exists() and root.resolve() in out.resolve().parents and _is_data(out):
        raise OutputError(f"{out} is there, and may be of the data set {path}; name another file")


def _is_data(file: Path) -> bool:
    """Whether a file may be an image or a table that somebody made."""
    if file.suffix.lower() not in (".csv", ".jsonl", ".parquet"):
        return is_image_file(file)
    with open(file, "rb") as content:
        return content.readline().strip() != ",".join(_LEFT_OUT_COLUMNS).encode()


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but for hidden entries."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))


def _from_folder(root: Path) -> Listing:
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if table is not None and _has_labels(table):
        return _from_table(root, table, "")
    splits = {entry: SPLIT_NAMES[entry.name.lower()] for entry in _entries(root) if _is_split(entry)}
    parts = [_of_part(root, folder, split) for folder, split in (splits or {root: ""}).items()]
    warnings = [
        f"{entry.name}: a folder beside {', '.join(each.name for each in splits)}, not used"
        for entry in _entries(root)
        if splits and entry.is_dir() and entry not in splits
    ]
    found = _joined(root, parts, warnings)
    return found if table is None else _with_metadata(found, table, root)


def _is_split(entry: Path) -> bool:
    return entry.is_dir() and entry.name.lower() in SPLIT_NAMES


def _of_part(root: Path, folder: Path, split: str) -> Listing:
    """One split."""
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is not None and folder != root and _has_labels(table):
        return _from_table(root, table, split)
    files, warnings, classes = [], [], []
    left_out: dict[str, str] = {}
    for class_folder in (entry for entry in _entries(folder) if entry.is_dir()):
        images = find_images(class_folder)
        names = [file.relative_to(root).as_posix() for file in images.files if file.name[0] != "."]
        others = {**images.left_out, **images.unreadable}
        left_out |= {path.relative_to(root).as_posix(): why for path, why in others.items() if path.name[0] != "."}
        if names:
            classes.append(class_folder.name)
        else:
            warnings.append(f"{class_folder.relative_to(root).as_posix()}: a class folder without images")
        files += [LabelledFile(name, class_folder.name, split=split) for name in names]
    found = Listing(root, tuple(files), tuple(sorted(classes)), left_out, tuple(warnings))
    return found if table is None or folder == root else _with_metadata(found, table, folder)


def _joined(root: Path, parts: list[Listing], warnings: list[str]) -> Listing:
    ordered = next((part.classes for part in parts if any(file.shares for file in part.files)), None)
    return Listing(
        root,
        tuple(file for part in parts for file in part.files),
        ordered or tuple(sorted({name for part in parts for name in part.classes})),
        {name: reason for part in parts for name, reason in part.left_out.items()},
        (*(line for part in parts for line in part.warnings), *warnings),
    )


# Tables


def _has_labels(table: Path) -> bool:
    columns, _ = _read_table(table)
    known = _meanings(columns)
    return "path" in known and ("label" in known or len(columns) > len(known))


def _meanings(columns: list[str]) -> dict[str, str]:
    """The columns by what they mean."""
    lower = {name.strip().lower(): name for name in columns}
    return {meaning: lower[name] for meaning, names in _COLUMNS.items() for name in names[::-1] if name in lower}


def _from_table(root: Path, table: Path, split: str) -> Listing:
    columns, rows = _read_table(table)
    known = _meanings(columns)
    others = [name for name in columns if name not in known.values()]
    if "path" not in known or ("label" not in known and len(others) < 2):
        raise DataError(f"{table}: expected the columns path and label, or path and one for each class; got {columns}")
    warnings, probable = [], "label" not in known
    if others and not probable:
        warnings.append(f"{table.name}: columns not used: {', '.join(others)}")
    base = table.parent.relative_to(root).as_posix()
    files, left_out, seen = [], {}, set()
    for number, row in enumerate(rows, start=2):
        given = {meaning: str(row.get(name) if row.get(name) is not None else "").strip()
                 for meaning, name in known.items()}  # fmt: skip
        name = Path(os.path.normpath(Path(base, given["path"]))).as_posix() if given["path"] else f"line {number}"
        try:
            file = LabelledFile(
                name,
                given.get("label", ""),
                _shares(row, others) if probable else None,
                _split(given.get("split", ""), split or SPLIT_NAMES.get(name.split("/")[0].lower(), "")),
                given.get("subject", ""),
                _weight(given.get("weight", "")),
            )
        except ValueError as error:
            left_out[name] = f"{table.name}, line {number}: {error}"
            continue
        if not given["path"]:
            left_out[name] = f"{table.name}, line {number}: no path"
        elif not probable and not file.label:
            left_out[name] = f"{table.name}, line {number}: no label"
        elif name in seen:
            left_out[f"{name} (line {number})"] = f"{table.name}: the file is there twice"
        else:
            seen.add(name)
            files.append(file)
    classes = tuple(others) if probable else tuple(sorted({file.label for file in files}))
    return Listing(root, tuple(files), classes, left_out, tuple(warnings))


def _split(name: str, default: str) -> str:
    if not name:
        return default
    if name.lower() not in SPLIT_NAMES:
        raise ValueError(f"no split {name!r}; there are train, val and test")
    return SPLIT_NAMES[name.lower()]


def _weight(text: str) -> float:
    weight = float(text) if text else 1.0
    if not (0 <= weight < float("inf")):
        raise ValueError(f"a weight must be 0 or more, got {text}")
    return weight


def _shares(row: Mapping[str, Any], classes: list[str]) -> dict[str, float]:
    """Probabilities, from votes too."""
    values = np.array([float(row.get(name) or 0) for name in classes])
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise ValueError(f"probabilities must not be negative, nor all 0, got {values.tolist()}")
    return dict(zip(classes, (values / values.sum()).tolist(), strict=True))


def _with_metadata(found: Listing, table: Path, base: Path) -> Listing:
    """Files by their folders, with what a table without labels says about them."""
    columns, rows = _read_table(table)
    known = _meanings(columns)
    if "path" not in known:
        raise DataError(f"{table}: expected a column file_name, got {columns}")
    said = {(base / str(row[known["path"]])).relative_to(found.root).as_posix(): row for row in rows}
    files = []
    for file in found.files:
        row = said.get(file.name, {})
        subject, weight = (str(row.get(known.get(key, ""), "") or "") for key in ("subject", "weight"))
        files.append(replace(file, subject=subject or file.subject, weight=_weight(weight)))
    return replace(found, files=tuple(files))


def _read_table(table: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and rows by column.

    Raises:
        DataError: If it is no table.
    """
    try:
        if table.suffix.lower() == ".parquet":
            return _read_parquet(table)
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            return list(dict.fromkeys(name for row in rows for name in row)), rows
        reader = csv.DictReader(text.splitlines(), restval="")
        columns = [name for name in reader.fieldnames or () if name]
        return columns, list(reader)
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable table ({error})") from error


def _read_parquet(table: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise DataError(f'{table}: reading Parquet needs pyarrow: pip install "mrcar-timm[parquet]"') from error
    try:
        found = parquet.read_table(table)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{table}: not a readable table ({error})") from error
    return found.column_names, found.to_pylist()
