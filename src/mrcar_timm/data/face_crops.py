"""The faces of photos: found once, cut out upright with room around them, and kept beside the photos.

What is kept of a photo of any size is one small crop for each face, so that memory and disk depend on the number of
faces alone.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np

from ..errors import ImageError
from ..faces.locate import Located, locate_faces, template_face
from ..faces.mtcnn import MTCNNDetector
from ..images import open_file, to_rgb
from ..output import replacing
from ..progress import Progress, silent
from ..regions.cut import cut_matrices
from ..regions.geometry import frame_transform, similarity_from_landmarks
from ..user_cache import optional, user_cache
from .landmarks import cache_beside

#: Which faces of a photo are used: the largest, all, or the photo itself, which is a crop of a face.
FaceChoice = Literal["largest", "all", "crop"]

_VERSION = 3  # raise when the same photos give other crops
_ROOM = 1.5  # side of a crop in frames of a face, so that augmentation turns and moves within it
_AT_ONCE = 4  # photos in memory
_SHARD = 128  # photos a file of the cache


@dataclass(frozen=True)
class FaceCrops:
    """Faces of photos.

    Attributes:
        images: (M, S, S, 3), uint8, RGB.
        landmarks: (M, 5, 2), in pixels of the crop.
        owners: (M,), index of the photo.
        sources: (M,), where the landmarks came from: "detector", "crop" or "template".
        found: (N,), number of faces in each photo; -1 where it cannot be read.
        errors: Why photos cannot be read, by index.
        digests: (N,), SHA-256 of each file; "" where it cannot be read.
    """

    images: np.ndarray
    landmarks: np.ndarray
    owners: np.ndarray
    sources: np.ndarray
    found: np.ndarray
    errors: dict[int, str]
    digests: np.ndarray


def crop_side(size: int) -> int:
    """Side in pixels of the crops from which regions of a size are cut: about three pixels for each of theirs."""
    return 32 * max(1, round(3 * size / 32))


@dataclass
class _Photo:
    """What is kept of a photo."""

    name: str
    size: int
    mtime: int
    digest: str = ""
    error: str = ""
    found: int = -1
    sources: tuple[str, ...] = ()
    # Its faces: in memory until they are written, then in a file of the cache, from this row on.
    crops: tuple[np.ndarray, np.ndarray] | None = None
    shard: Path | None = None
    row: int = 0

    def faces(self) -> tuple[np.ndarray, np.ndarray]:
        """Crops and landmarks."""
        if self.crops is not None:
            return self.crops
        assert self.shard is not None
        images, landmarks = _load_shard(self.shard)
        rows = slice(self.row, self.row + len(self.sources))
        return images[rows], landmarks[rows]


def find_faces(
    root: Path, names: Sequence[str], faces: FaceChoice = "largest", side: int = 128, progress: Progress = silent
) -> FaceCrops:
    """The faces of photos, from the cache where it knows the photo: by its name, size and time, or by its content.

    Args:
        root: Folder that the names start from. The cache goes there, or into the user's cache where nothing can be
            written.
        names: Image files.
        faces: "largest", "all", or "crop" where each image is a crop of a face already.
        side: Side of a crop in pixels.
        progress: Wrapper of the loop over photos that are not in the cache.
    """
    if faces not in ("largest", "all", "crop"):
        raise ValueError(f"faces must be 'largest', 'all' or 'crop', got {faces!r}")
    beside = cache_beside(root)
    if beside is None:
        beside = user_cache() / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:20]
    folder = beside / f"faces-{faces}-{side}-v{_VERSION}"
    known = _read_cache(folder)
    by_content = {photo.digest: photo for photo in known.values() if photo.digest}
    photos: dict[str, _Photo] = {}
    unknown = []
    for name in dict.fromkeys(names):
        photo = _stat(root, name)
        before = known.get(name)
        if before is not None and (before.size, before.mtime) == (photo.size, photo.mtime):
            photos[name] = before
        elif photo.error:
            photos[name] = photo
        else:
            unknown.append(photo)
    new = _look_at(root, unknown, by_content, faces, side)
    shard: list[_Photo] = []
    try:
        for photo in progress(new, "faces", len(unknown)) if unknown else ():
            photos[photo.name] = photo
            if photo.digest:  # what could not even be opened is tried again
                shard.append(photo)
            if len(shard) == _SHARD:
                _write_shard(folder, shard)
                shard = []
    finally:  # whoever stops it does not wait again for what is done
        if shard:
            _write_shard(folder, shard)
    return _together([photos[name] for name in names], side)


def _together(photos: list[_Photo], side: int) -> FaceCrops:
    counts = [len(photo.sources) for photo in photos]
    images = np.empty((sum(counts), side, side, 3), np.uint8)
    landmarks = np.empty((sum(counts), 5, 2), np.float32)
    ends = np.cumsum(counts).tolist()
    # Shard by shard, so that each is read once.
    for end, photo in sorted(zip(ends, photos, strict=True), key=lambda pair: str(pair[1].shard)):
        if photo.sources:
            rows = slice(end - len(photo.sources), end)
            images[rows], landmarks[rows] = photo.faces()
    return FaceCrops(
        images,
        landmarks,
        np.repeat(np.arange(len(photos)), counts),
        np.array([source for photo in photos for source in photo.sources], dtype="<U8"),
        np.array([photo.found for photo in photos]),
        {index: photo.error for index, photo in enumerate(photos) if photo.error},
        np.array([photo.digest for photo in photos], dtype="<U64"),
    )


def _stat(root: Path, name: str) -> _Photo:
    try:
        stat = os.stat(root / name)
    except OSError:
        link = (root / name).is_symlink()
        return _Photo(name, 0, 0, error="a link to nothing" if link else "no such file")
    return _Photo(name, stat.st_size, stat.st_mtime_ns)


def _look_at(
    root: Path, photos: Iterable[_Photo], by_content: dict[str, _Photo], faces: FaceChoice, side: int
) -> Iterator[_Photo]:
    """Fill in what is found in photos, a few at a time: while faces are looked for in some, the next are read."""
    photos = list(photos)
    batches = [photos[start : start + _AT_ONCE] for start in range(0, len(photos), _AT_ONCE)]
    detector = MTCNNDetector()

    def read(batch: list[_Photo]) -> list[np.ndarray | None]:
        return [_read(root, photo, by_content) for photo in batch]

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, batches[0]) if batches else None
        for number, batch in enumerate(batches):
            assert ahead is not None
            images = ahead.result()
            ahead = pool.submit(read, batches[number + 1]) if number + 1 < len(batches) else None
            new = [(photo, image) for photo, image in zip(batch, images, strict=True) if image is not None]
            every = _locate([image for _, image in new], detector, faces)
            for (photo, image), located in zip(new, every, strict=True):
                photo.found = len(located.sources)
                chosen = slice(None) if faces == "all" else slice(1)
                points = located.faces.landmarks[chosen]
                photo.crops = cut_faces(image, points, side)
                photo.sources = located.sources[chosen]
            yield from batch


def _read(root: Path, photo: _Photo, by_content: dict[str, _Photo]) -> np.ndarray | None:
    """The pixels of a photo; None where it is known by its content, or cannot be read, which it then says."""
    try:
        with open_file(root / photo.name) as file:
            photo.digest = hashlib.sha256(file.read()).hexdigest()
        same = by_content.get(photo.digest)
        if same is None:
            return to_rgb(root / photo.name)
        photo.error, photo.found, photo.sources = same.error, same.found, same.sources
        photo.shard, photo.row = same.shard, same.row
    except (ImageError, OSError) as error:
        photo.error = str(error).removeprefix(f"{root / photo.name}: ")
    return None


def _locate(images: list[np.ndarray], detector: MTCNNDetector, faces: FaceChoice) -> list[Located]:
    if faces != "crop":
        return locate_faces(images, detector)
    located = []
    for image in images:
        found = template_face(image)
        landmarks, sources = detector.landmarks_of_crops(image[None])
        if sources[0]:
            found = Located(type(found.faces)(found.faces.boxes, found.faces.scores, landmarks), ("crop",))
        located.append(found)
    return located


def cut_faces(image: np.ndarray, landmarks: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces upright, with room around them.

    Args:
        image: RGB, uint8, (H, W, 3).
        landmarks: (N, 5, 2) in pixels.
        side: Side of a crop in pixels.

    Returns:
        Crops (N, side, side, 3), uint8, and landmarks (N, 5, 2) in their pixels.
    """
    points = landmarks.astype(np.float64).reshape(-1, 5, 2)
    matrices = similarity_from_landmarks(points) @ frame_transform(zoom=1 / _ROOM)  # (N, 3, 3)
    crops = cut_matrices(image, matrices, (side, side))  # (N, 3, side, side)
    pixels = (crops * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    homogeneous = np.concatenate([points, np.ones((*points.shape[:2], 1))], 2)
    inside = np.linalg.solve(matrices, homogeneous.swapaxes(1, 2)).swapaxes(1, 2)[..., :2] * side
    return pixels, inside.astype(np.float32)


# The cache: files that are written once, so that several processes can add to it


def _write_shard(folder: Path, photos: list[_Photo]) -> None:
    """Write what was found in photos; their crops then are in the file, or stay in memory if it cannot be written."""
    faces = [photo.faces() for photo in photos if photo.sources]
    values: dict[str, Any] = {
        "names": np.array([photo.name for photo in photos]),
        "stats": np.array([[photo.size, photo.mtime, photo.found, len(photo.sources)] for photo in photos], np.int64),
        "digests": np.array([photo.digest for photo in photos]),
        "errors": np.array([photo.error for photo in photos]),
        "sources": np.array([source for photo in photos for source in photo.sources], dtype="<U8"),
        "images": np.concatenate([images for images, _ in faces]) if faces else np.zeros(0),
        "landmarks": np.concatenate([landmarks for _, landmarks in faces]) if faces else np.zeros(0),
    }
    shard = folder / f"{uuid.uuid4().hex}.npz"
    with optional("faces", folder):
        with replacing(shard) as partial, open(partial, "wb") as file:
            np.savez(file, **values)
        row = 0
        for photo in photos:
            photo.crops, photo.shard, photo.row = None, shard, row
            row += len(photo.sources)


@lru_cache(maxsize=2)
def _load_shard(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """Crops and landmarks in a file, which never changes."""
    with np.load(shard, allow_pickle=False) as stored:
        return stored["images"], stored["landmarks"]


def _read_cache(folder: Path) -> dict[str, _Photo]:
    """What the cache knows, by name, what was written last; the crops stay in their files."""
    found: dict[str, _Photo] = {}
    for shard in sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns) if folder.is_dir() else ():
        found |= {photo.name: photo for photo in _read_shard(shard)}
    return found


def _read_shard(shard: Path) -> list[_Photo]:
    """The photos of a file of the cache; none if it is damaged."""
    photos = []
    row = 0
    try:
        with ZipFile(shard) as archive:
            if archive.testzip():
                return []
        with np.load(shard, allow_pickle=False) as stored:
            names, stats, digests, errors, sources = (
                stored[key].tolist() for key in ("names", "stats", "digests", "errors", "sources")
            )
        for name, (size, mtime, count, faces), digest, error in zip(names, stats, digests, errors, strict=True):
            own = tuple(sources[row : row + faces])
            photos.append(_Photo(name, size, mtime, digest, error, count, own, shard=shard, row=row))
            row += faces
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return []
    return photos
