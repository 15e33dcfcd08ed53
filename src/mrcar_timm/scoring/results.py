"""The folder of results: a Parquet file for each part that is done, and what they are results of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
from pyarrow import parquet

from ..errors import MRCARError
from ..lock import FolderLock
from ..output import output_error, remove_partial, replacing, write_json
from .scorer import Scored

#: Readers of Parquet leave out files whose names begin so.
MANIFEST = "_score.json"
_PART = re.compile(r"part-(\d{5})-(\d{6})\.parquet")
_KEY = b"mrcar"
_WORDS = ["file", "source", "expression", "error"]


@dataclass(frozen=True)
class Counts:
    """How much was done.

    Attributes:
        images: Images.
        faces: Faces in them.
        errors: Images that could not be used.
    """

    images: int = 0
    faces: int = 0
    errors: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.images + other.images, self.faces + other.faces, self.errors + other.errors)


def count_rows(images: int, table: pyarrow.Table) -> Counts:
    """The counts of some images with these rows."""
    faces = pyarrow.compute.sum(pyarrow.compute.greater(table["face"], 0)).as_py() or 0
    return Counts(images, faces, len(table) - table["error"].null_count)


@dataclass
class Results:
    """A folder of results, which one process at a time writes.

    Args:
        folder: The folder, made if it is missing.
        manifest: What the results are of, as plain values.
        made_by: What made them, for the record.

    Attributes:
        done: Counts of the parts that are done, by number of the shard and of the part.

    Raises:
        MRCARError: If the folder has results of something else, or another process writes there.
        OutputError: If it cannot be written.
    """

    folder: Path
    manifest: dict[str, Any]
    made_by: dict[str, str]
    done: dict[tuple[int, int], Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = FolderLock(self.folder, "written")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise output_error(self.folder, error) from error
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write."""
        self._lock.release()

    def _resume(self) -> None:
        file = self.folder / MANIFEST
        if file.exists():
            try:
                stored = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise MRCARError(
                    f"{file} is damaged ({error}); name another folder, or delete {self.folder}"
                ) from error
            manifest = json.loads(json.dumps(self.manifest))
            differing = [name for name, value in manifest.items() if stored.get(name) != value]
            if differing:
                raise MRCARError(
                    f"{self.folder} has results with other {', '.join(differing)}; name another folder, or delete it"
                )
        elif any(not file.name.startswith(".") for file in self.folder.iterdir()):
            raise MRCARError(f"{self.folder} holds something else; name another folder")
        else:
            write_json(file, {**self.manifest, "made_by": self.made_by})
        remove_partial(self.folder)
        for part in self.folder.iterdir():
            if match := _PART.fullmatch(part.name):
                counts = _read_counts(part)
                if counts is not None:
                    self.done[int(match[1]), int(match[2])] = counts

    def done_of(self, shard: int) -> set[int]:
        """Numbers of the parts of a shard that are done."""
        return {part for of, part in self.done if of == shard}

    def write(self, scored: Iterable[Scored]) -> Iterator[Counts]:
        """Write chunks as parts, each once it is whole; the counts of each chunk.

        Args:
            scored: Chunks, in order.

        Raises:
            MRCARError: If a chunk is missing, or there twice.
            OutputError: If a part cannot be written.
        """
        tables: list[pyarrow.Table] = []
        total, key = Counts(), (-1, -1)
        for chunk in scored:
            if (chunk.shard, chunk.part) != key:
                # Only the last part of a shard may have fewer images.
                if chunk.shard == key[0] and total.images != self.manifest["part_size"]:
                    raise _lost(key)
                self._write_part(key, tables, total)
                tables, total, key = [], Counts(), (chunk.shard, chunk.part)
            if chunk.number != len(tables):
                raise _lost((chunk.shard, chunk.part))
            counts = count_rows(chunk.images, chunk.rows)
            tables.append(chunk.rows)
            total += counts
            yield counts
        self._write_part(key, tables, total)

    def _write_part(self, key: tuple[int, int], tables: list[pyarrow.Table], counts: Counts) -> None:
        if not tables:
            return
        table = pyarrow.concat_tables(tables)
        told = json.dumps({**vars(counts), "network": self.manifest["network"]})
        table = table.replace_schema_metadata({_KEY: told.encode()})
        with replacing(self.folder / f"part-{key[0]:05d}-{key[1]:06d}.parquet") as partial:
            # Numbers do not repeat; a dictionary of them would be as long again.
            parquet.write_table(table, partial, compression="zstd", use_dictionary=_WORDS)
        self.done[key] = counts


def _lost(key: tuple[int, int]) -> MRCARError:
    return MRCARError(
        f"images of part {key[1]} of input {key[0]} are missing, or there twice; the same command goes on"
    )


def _read_counts(part: Path) -> Counts | None:
    """The counts of a part; None where it is damaged, and so not done."""
    try:
        values = json.loads(parquet.read_metadata(part).metadata[_KEY])
        return Counts(values["images"], values["faces"], values["errors"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
