"""What a user names, as shards of images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, MRCARError
from ..images import find_images, is_image_name
from .addresses import filesystem, is_address, opened
from .shards import FileList, ParquetShard, Shard, TarShard

_TAR = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tar\.xz)$", re.IGNORECASE)
_PATHS = ("path", "file_name", "filename", "file", "image")  # names of columns with paths
_SHOWN = 5


def find_inputs(
    inputs: Iterable[str], column: str | None = None, tell: Callable[[str], None] = lambda line: None
) -> list[Shard]:
    """The shards of what a user names.

    Args:
        inputs: Each an image; a folder of images; a list (``.txt``) with a path on each line, relative to itself; a tar
            file; a Parquet file; or the address of any of these, such as ``s3://bucket/photos``, perhaps with ``*``.
        column: The column of Parquet files that has the images.
        tell: Gets a line about what is left out.

    Raises:
        DataError: If there is no such thing, or no image in any.
        MRCARError: If what is needed to open one is not installed.
    """
    inputs = list(inputs)
    shards: list[Shard] = []
    alone: list[str] = []  # images that are named one by one are one shard

    def end_list() -> None:
        if alone:
            shards.append(FileList(alone[0], tuple(alone)))
            alone.clear()

    for name in _expanded(inputs):
        shard = _shard(name, column, tell)
        if shard is None:
            alone.append(name)
        else:
            end_list()
            shards.append(shard)
    end_list()
    shards = [shard for shard in shards if shard.count != 0]
    if not shards:
        raise DataError(f"no images in {', '.join(inputs)}")
    return shards


def _expanded(inputs: Iterable[str]) -> Iterator[str]:
    """Addresses with ``*`` as those that they stand for; the shell does this for paths."""
    for name in inputs:
        if is_address(name) and "*" in name:
            system, path = filesystem(name)
            found = _asked(name, lambda: sorted(system.glob(path)))  # noqa: B023  # called at once
            if not found:
                raise DataError(f"{name}: no such file")
            yield from map(system.unstrip_protocol, found)
        else:
            yield name


def _shard(name: str, column: str | None, tell: Callable[[str], None]) -> Shard | None:
    """The shard that a name stands for; None for an image."""
    if is_address(name):
        system, path = filesystem(name)
        is_folder = _asked(name, lambda: system.isdir(path))
        size = None if is_folder else _asked(name, lambda: system.info(path)["size"]) or 0
    else:
        is_folder = os.path.isdir(name)
        size = None if is_folder else _size(name)
    if is_folder:
        return _of_bucket(name, tell) if is_address(name) else _of_folder(name, tell)
    assert size is not None
    if _TAR.search(name):
        return TarShard(name, size)
    if name.lower().endswith(".parquet"):
        return _of_parquet(name, size, column)
    if name.lower().endswith(".txt"):
        return _of_list(name)
    return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _asked(name: str, question: Callable[[], Any]) -> Any:
    """What a system answers about an address.

    Raises:
        DataError: If it does not.
    """
    try:
        return question()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file or folder") from error
    except Exception as error:  # each system has errors of its own, which have no base
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def _of_folder(name: str, tell: Callable[[str], None]) -> FileList:
    found = find_images(Path(name))
    for path, reason in found.unreadable.items():
        tell(f"{path}: {reason}")
    _tell_left_out(list(map(str, found.left_out)), tell)
    # A folder that cannot be looked into is a row with an error, as a file is that cannot be read.
    return FileList(name, tuple(map(str, sorted([*found.files, *found.unreadable]))))


def _of_bucket(name: str, tell: Callable[[str], None]) -> FileList:
    system, path = filesystem(name)
    files = _asked(name, lambda: sorted(system.find(path)))
    # A server may list what is elsewhere.
    inside = [file for file in files if file.startswith(path.rstrip("/") + "/") and ".." not in file.split("/")]
    images = [file for file in inside if is_image_name(file.rsplit("/", 1)[-1])]
    _tell_left_out(sorted({*files} - {*images}), tell)
    return FileList(name, tuple(map(system.unstrip_protocol, images)))


def _tell_left_out(names: list[str], tell: Callable[[str], None]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        tell(f"{len(names)} left out, no images: {', '.join(names[:_SHOWN])}{more}")


def _of_list(name: str) -> FileList:
    with opened(name) as file:
        lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    return FileList(name, tuple(filter(None, map(str.strip, lines))), listed=True)


def _of_parquet(name: str, size: int, column: str | None) -> ParquetShard:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MRCARError(f'{name} needs pyarrow: pip install "mrcar-timm[parquet]"') from error
    with opened(name) as file:
        try:
            table = parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{name} is no Parquet file: {error}") from error
        return ParquetShard(name, size, table.metadata.num_rows, _column(name, table.schema_arrow, column))


def _column(name: str, schema: Any, asked: str | None) -> str:
    """The column that has the images."""
    from pyarrow import types

    def has_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(part.name == "bytes" for part in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    found = [each.name for each in schema if has_bytes(each.type)]
    found = found or [each.name for each in schema if each.name in _PATHS]
    if asked is not None:
        found = [each for each in schema.names if each == asked]
    if len(found) != 1:
        raise DataError(f"{name}: name the column of the images with --column; there are {', '.join(schema.names)}")
    return found[0]
