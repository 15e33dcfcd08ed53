"""Images in, rows of a table out: what each process does."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow

from ..backends import BackendName
from ..errors import ImageError, MRCARError
from ..images import MAX_PIXELS, ImageLike
from ..processes import plain_errors
from ..recognizer import ExpressionRecognizer, Faces
from .addresses import is_address, read_bytes
from .shards import Shard, Source
from .table import face_rows, table_schema

#: Images that go together, and about how many bytes of them where they are in archives.
IMAGES, _BYTES = 16, 2**24


@dataclass(frozen=True)
class Settings:
    """How images are scored: arguments of :class:`~mrcar_timm.ExpressionRecognizer`."""

    model: str | None = None
    missing: str = "none"
    faces: str = "all"
    min_size: float = 0
    min_score: float = 0
    any_angle: bool = False
    without: tuple[str, ...] = ()
    device: str = "cpu"
    backend: BackendName | None = None
    max_pixels: int = MAX_PIXELS
    embeddings: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what decides about the results."""
        return {name: value for name, value in asdict(self).items() if name != "device"}


@dataclass(frozen=True)
class Chunk:
    """Some images that follow one another, all of one part of a shard.

    Attributes:
        shard: Number of the shard.
        part: Number of the part of it.
        number: Number within the part.
        images: The images.
    """

    shard: int
    part: int
    number: int
    images: tuple[Source, ...]


@dataclass(frozen=True)
class Scored:
    """A chunk that was scored.

    Attributes:
        shard, part, number: Those of the chunk.
        images: How many images it has.
        rows: Their rows.
    """

    shard: int
    part: int
    number: int
    images: int
    rows: pyarrow.Table


def cut_chunks(shard: Shard, number: int, done: set[int], part_size: int) -> Iterator[Chunk]:
    """The chunks of a shard, in order. The same shard always gives the same ones.

    Args:
        shard: The shard.
        number: Its number.
        done: Numbers of parts that are left out.
        part_size: Images a part.
    """
    images: list[Source] = []
    size = part = count = 0
    for index, image in shard.images(lambda index: index // part_size not in done):
        new_part = index // part_size
        if images and (new_part != part or len(images) == IMAGES or size >= _BYTES):
            yield Chunk(number, part, count, tuple(images))
            images, size, count = [], 0, count + 1
        if new_part != part:
            part, count = new_part, 0
        images.append(image)
        size += len(image.content or b"")
    if images:
        yield Chunk(number, part, count, tuple(images))


class Scorer:
    """Scores images in this process, which has one thread of PyTorch's from then on.

    Args:
        settings: How.

    Raises:
        MRCARError: If the network cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        torch.set_num_threads(1)  # a process a core: threads of one process have to wait for each other
        self._recognizer = ExpressionRecognizer(**asdict(settings))
        self.labels = self._recognizer.labels
        self.schema = table_schema(self.labels, settings.embeddings)

    @property
    def network(self) -> dict[str, str]:
        """Name and digest of the network."""
        return {"name": self._recognizer.network.name, "sha256": self._recognizer.network.sha256}

    def __call__(self, images: Iterable[Source]) -> pyarrow.Table:
        """The rows of images, in order."""
        images = list(images)
        rows: list[dict[str, Any]] = []
        for image, faces in zip(images, self._faces(images), strict=True):
            rows += face_rows(image.name, faces)
        return pyarrow.Table.from_pylist(rows, self.schema)

    def _faces(self, images: list[Source]) -> list[Faces | Exception]:
        try:
            contents = _read(images)
            faces = self._recognizer.stream(each for each in contents if not isinstance(each, MRCARError))
            return [each if isinstance(each, MRCARError) else next(faces) for each in contents]
        except Exception as error:  # about one of them, as when memory runs out: the others are not to pay for it
            if len(images) == 1:
                return [MRCARError(f"{images[0].name}: {type(error).__name__}: {error}")]
            return [faces for image in images for faces in self._faces([image])]


class _NamedFile(io.BytesIO):
    """The bytes of a file, by whose name errors call it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _read(images: list[Source]) -> list[ImageLike | MRCARError]:
    """Images as the recognizer takes them. Those at an address are read at once, as each one waits for the network."""
    if any(image.place is not None and is_address(image.place) for image in images):
        with ThreadPoolExecutor(len(images)) as threads:
            return list(threads.map(_read_one, images))
    return list(map(_read_one, images))


def _read_one(image: Source) -> ImageLike | MRCARError:
    if image.error is not None:
        return ImageError(image.error)
    if image.content is not None:
        return _NamedFile(image.content, image.name)
    assert image.place is not None
    if not is_address(image.place):
        return Path(image.place)
    try:
        return _NamedFile(read_bytes(image.place), image.name)
    except MRCARError as error:
        return error


@lru_cache(maxsize=1)
def scorer(settings: Settings) -> Scorer:
    """The scorer of this process."""
    return Scorer(settings)


@plain_errors
def describe(settings: Settings) -> tuple[dict[str, str], pyarrow.Schema]:
    """The network of this process's scorer, and the columns of its tables."""
    return scorer(settings).network, scorer(settings).schema


@plain_errors
def score_images(settings: Settings, images: tuple[Source, ...]) -> pyarrow.Table:
    """The rows of images, by the scorer of this process."""
    return scorer(settings)(images)
