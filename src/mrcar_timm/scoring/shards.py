"""What images are in: lists of files, tar files, Parquet files. Each gives them in a fixed order."""

from __future__ import annotations

import hashlib
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DataError
from ..images import is_image_name
from .addresses import MOST_BYTES, beside, is_address, opened

#: Tells by an image's number, from 0, whether it is asked for.
Wanted = Callable[[int], bool]


@dataclass(frozen=True)
class Source:
    """An image to score.

    Attributes:
        name: What the results call it.
        place: Path or address to read it from, if it is a file.
        content: The bytes of the file, if it is in another one.
        error: Why it cannot be read, if that is known already.
    """

    name: str
    place: str | None = None
    content: bytes | None = None
    error: str | None = None


class Shard(Protocol):
    """A part of the input that is read from its beginning to its end, such as an archive."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def count(self) -> int | None:
        """How many images it has, if that is known before it is read."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain values, which differ where the shards differ."""
        ...

    def images(self, wanted: Wanted) -> Iterator[tuple[int, Source]]:
        """The wanted images and their numbers. Others are passed over, without reading them where that can be done.

        Where the shard is damaged, there is an image with an error. What is wanted changes nothing about the others.

        Raises:
            DataError: If it cannot be read, such as for want of a network.
        """
        ...


@dataclass(frozen=True)
class FileList:
    """Files, each an image.

    Attributes:
        name: The folder or list that they are from.
        files: Their paths or addresses.
        listed: Whether they are lines of a list, relative to it.
    """

    name: str
    files: Sequence[str]
    listed: bool = False

    @property
    def count(self) -> int:
        return len(self.files)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256("\0".join(self.files).encode("utf-8", "surrogateescape"))
        return {"name": self.name, "count": self.count, "sha256": digest.hexdigest()}

    def images(self, wanted: Wanted) -> Iterator[tuple[int, Source]]:
        for number, file in enumerate(self.files):
            if wanted(number):
                yield number, _listed(self.name, file) if self.listed else Source(file, file)


def _listed(of: str, entry: str, name: str | None = None) -> Source:
    """What an entry of a list, or of a table, stands for.

    Args:
        of: The list.
        entry: A path, relative to the list.
        name: What the results call it; its path if None.
    """
    try:
        place = beside(of, entry)
    except DataError as error:
        return Source(name or entry, error=str(error))
    return Source(name or place, place)


class _Member(tarfile.TarInfo):
    """A member of a tar file, which ends where it says so. Without this, tarfile takes damage for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError("it breaks off, or is damaged") from error


@dataclass(frozen=True)
class TarShard:
    """A tar file, such as a shard of WebDataset: those of its members that are images by their names.

    Members are read into memory; nothing is unpacked.

    Attributes:
        name: Its path or address.
        size: In bytes.
    """

    name: str
    size: int
    count: int | None = None

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size}

    def images(self, wanted: Wanted) -> Iterator[tuple[int, Source]]:
        number = 0
        # A file on disk is passed over by seeking; a compressed or distant one is read once, from beginning to end.
        seeks = self.name.lower().endswith(".tar") and not is_address(self.name)
        mode: Any = "r:" if seeks else "r|*"
        with opened(self.name) as file:
            try:
                with tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as archive:
                    for member in archive:
                        archive.members = []  # type: ignore[attr-defined]  # they would all be kept
                        if not member.isreg() or not is_image_name(posixpath.basename(member.name)):
                            continue
                        # Where it breaks off must not depend on what is wanted.
                        if seeks and member.offset_data + member.size > self.size:
                            raise tarfile.ReadError("it breaks off")
                        if wanted(number):
                            yield number, self._source(archive, member)
                        elif not seeks:
                            _pass_over(archive, member)
                        number += 1
            except (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                if wanted(number):
                    yield (
                        number,
                        Source(self.name, error=f"{self.name} is no whole tar file: {error or 'it breaks off'}"),
                    )

    def _source(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Source:
        name = f"{self.name}/{member.name}"
        if member.size > MOST_BYTES:
            return Source(name, error=f"{name}: larger than {MOST_BYTES:,} bytes")
        content = archive.extractfile(member)
        assert content is not None  # it is a regular file
        return Source(name, content=content.read())


def _pass_over(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Read a member for nothing."""
    content = archive.extractfile(member)
    while content is not None and content.read(2**20):
        pass


@dataclass(frozen=True)
class ParquetShard:
    """A column of a Parquet file: the bytes of images, plain or as in data sets of Hugging Face, or their paths.

    Attributes:
        name: Its path or address.
        size: In bytes.
        count: How many rows it has.
        column: Name of the column.
    """

    name: str
    size: int
    count: int
    column: str

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "count": self.count, "column": self.column}

    def images(self, wanted: Wanted) -> Iterator[tuple[int, Source]]:
        from pyarrow import parquet

        start = 0
        with opened(self.name) as file:
            table = parquet.ParquetFile(file)
            for group in range(table.num_row_groups):
                rows = range(start, start + table.metadata.row_group(group).num_rows)
                start = rows.stop
                if any(map(wanted, rows)):
                    yield from self._images(table, group, rows, wanted)

    def _images(self, table: Any, group: int, rows: range, wanted: Wanted) -> Iterator[tuple[int, Source]]:
        """Those of a group of rows. Where it is damaged, each row that is missing is an image with an error."""
        values = self._values(table, group)
        damage = ""
        for number in rows:
            if not damage:
                try:
                    source = self._source(number, next(values))
                except (OSError, ValueError, StopIteration) as error:  # Arrow's own errors are among these
                    if is_address(self.name) and isinstance(error, OSError):
                        raise  # the network's, which may be there again
                    damage = f"{self.name} is no whole Parquet file: {error or 'rows are missing'}"
            if wanted(number):
                yield number, Source(f"{self.name}#{number}", error=damage) if damage else source

    def _values(self, table: Any, group: int) -> Iterator[Any]:
        for batch in table.iter_batches(batch_size=16, row_groups=[group], columns=[self.column]):
            for value in batch.column(0):
                yield value.as_py()

    def _source(self, number: int, value: Any) -> Source:
        name = f"{self.name}#{number}"
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            return Source(name, error=f"{name}: there is no image")
        if isinstance(value, bytes):
            return Source(name, content=value)
        return _listed(self.name, value, name)
