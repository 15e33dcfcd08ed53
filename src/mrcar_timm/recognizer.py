"""Photo in, faces with their expressions out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .backends import BackendName, load_backend, no_embeddings
from .errors import ExportError, MRCARError, NoFaceError
from .exposure import normalize_exposure
from .faces.detector import FaceDetector
from .faces.locate import Located, check_missing, locate_by_landmarks, locate_faces, locate_in_boxes, template_face
from .faces.mtcnn import MTCNNDetector
from .images import MAX_PIXELS, ImageLike, UnreadableFolderWarning, find_images, read_rgb, to_rgb
from .inputs import LUMA
from .regions.cut import cut_regions

if TYPE_CHECKING:
    import pandas
    import torch
    from torch import nn

    from .explain import RegionExplanation

# How many images, and how many pixels of them, are processed together.
_IMAGES, _PIXELS = 8, 32_000_000


class ColorOrderWarning(UserWarning):
    """A face that is bluer than red: the array is probably BGR, as OpenCV reads images."""


@dataclass(frozen=True)
class Face:
    """A face and what it expresses.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image, within it.
        landmarks: Five (x, y) in pixels: eyes, nose, mouth corners, the image's left first.
        score: Score of the detector, 0…1; None where no detector gave one.
        expression: The likeliest expression.
        probability: Its probability, calibrated on the validation split.
        probabilities: Probability of every expression, by name.
        source: Origin of the landmarks: "detector"; "crop" (the image is a tight face crop); "box" or
            "landmarks" (given by the caller); "template" (none were found: laid over the whole image, as
            ``missing="full_image"`` asked, or over the caller's box).
        box_full: The box before it was clipped: a face that the border cuts reaches beyond it.
        embedding: (D,), float32, of length 1, if the recognizer was asked for ``embeddings``; see
            :meth:`ExpressionRecognizer.embed`.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float | None
    expression: str
    probability: float
    probabilities: dict[str, float]
    source: str
    box_full: tuple[float, float, float, float]
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def label(self) -> str:
        """Text to draw beside the face."""
        return f"{self.expression} {self.probability:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "box": [round(v, 1) for v in self.box],
            "expression": self.expression,
            "probability": round(self.probability, 4),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
            "landmarks": [[round(x, 1), round(y, 1)] for x, y in self.landmarks],
            "score": None if self.score is None else round(self.score, 4),
            "source": self.source,
            "box_full": [round(v, 1) for v in self.box_full],
        }


class Faces(list[Face]):
    """Faces of one image, largest first (in the caller's order where the caller gave them): a list that knows more.

    Attributes:
        missing: Whether no face was found. Then the list is empty, or with ``missing="full_image"`` has one
            entry, for the whole image.
        size: Width and height of the upright image, in pixels.
        path: Its file, if it came from one.
        labels: The expressions that there are.
    """

    def __init__(
        self,
        faces: Iterable[Face],
        missing: bool,
        size: tuple[int, int],
        path: Path | None = None,
        labels: tuple[str, ...] = (),
    ) -> None:
        super().__init__(faces)
        self.missing = missing
        self.size = size
        self.path = path
        self.labels = labels

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain values of each face, with its number, counted from 1."""
        return [{"number": number, **face.to_dict()} for number, face in enumerate(self, start=1)]

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each face; ``pandas.concat`` makes one of the tables of several images.

        Raises:
            MRCARError: If pandas is not installed.

        Example:
            >>> ExpressionRecognizer()(np.zeros((64, 64, 3), np.uint8)).to_frame().shape
            (0, 18)
        """
        try:
            import pandas
        except ImportError as error:
            raise MRCARError('tables need pandas: pip install "mrcar-timm[pandas]"') from error
        file = None if self.path is None else str(self.path)
        rows = [[file, *face_row(values)] for values in self.to_dicts()]
        return pandas.DataFrame(rows, columns=["file", *FACE_COLUMNS, *self.labels])


#: Columns of a table of faces, before the probabilities of the expressions.
FACE_COLUMNS = ("face", "x1", "y1", "x2", "y2", "score", "source", "expression", "probability")


def face_row(values: dict[str, Any]) -> list[Any]:
    """A row of a table of faces: the values of :data:`FACE_COLUMNS`, and the probability of each expression.

    Args:
        values: Those of :meth:`Face.to_dict`, with the face's ``number``.
    """
    columns = (values[name] for name in FACE_COLUMNS[5:])
    return [values["number"], *values["box"], *columns, *values["probabilities"].values()]


@dataclass(frozen=True)
class Explanation:
    """Where the evidence for an expression of a face lies.

    Attributes:
        face: The face.
        expression: The expression that is explained.
        probability: Its probability.
        regions: By name, what each region says about it.
    """

    face: Face
    expression: str
    probability: float
    regions: dict[str, RegionExplanation]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: all but the maps."""
        return {
            "expression": self.expression,
            "probability": round(self.probability, 4),
            "regions": {
                name: {
                    "covered": round(region.covered, 4),
                    "drop": round(region.drop, 3),
                }
                for name, region in self.regions.items()
            },
            "face": self.face.to_dict(),
        }


class ExpressionRecognizer:
    """Finds faces in images and names their expressions.

    An expression is what a face shows, not what a person feels.

    Args:
        model: Name of a network, "hf-hub:ORG/NAME" or "hf-hub:ORG/NAME@REVISION", "local-dir:FOLDER", a run folder, or
            a module; or a folder written by ``mrcar export``; the packaged weights if None.
        detector: Finds faces; MTCNN if None.
        missing: Policy where no face is found: "none" gives an empty list, "raise" a
            :class:`~mrcar_timm.NoFaceError`, "full_image" takes the image for an aligned face. The result's
            ``missing`` says so.
        faces: "all", or only the "largest" of an image, which is several times faster.
        min_size: Lowest height of the box of a face, in pixels.
        min_score: Lowest score of the detector for a face, 0…1.
        any_angle: Also find faces that lie on their side or are upside down; takes four times as long.
        without: Expressions of the network's that are not asked for, such as ``["contempt"]`` for the seven that most
            data sets have; the probabilities of the others add up to 1.
        device: Device of the networks.
        batch_size: Faces that go through the network at once.
        backend: What runs the network: "torch"; "onnx" for ONNX Runtime on the CPU, which is about twice as fast for a
            face or a few; "auto" for ONNX Runtime where it is installed and can run the network, else PyTorch. None is
            ONNX Runtime for an exported folder, else PyTorch. A network that ONNX Runtime is to run is exported the
            first time, which takes several seconds, and kept in the user's cache.
        max_pixels: Images of more pixels are an :class:`~mrcar_timm.ImageError`, before they are decoded; see
            :func:`~mrcar_timm.images.to_rgb`.
        embeddings: Give each face its embedding too, at no cost.

    Raises:
        ExportError: If embeddings are asked for and ONNX Runtime runs the network.
        WeightsError: If the network's weights are missing or damaged.
        HubError: If the Hub does not give them.

    Example:
        >>> recognizer = ExpressionRecognizer()
        >>> recognizer(np.zeros((64, 64, 3), np.uint8))
        []
    """

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        detector: FaceDetector | None = None,
        missing: str = "none",
        faces: str = "all",
        min_size: float = 0,
        min_score: float = 0,
        any_angle: bool = False,
        without: Collection[str] = (),
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        backend: BackendName | None = None,
        max_pixels: int = MAX_PIXELS,
        embeddings: bool = False,
    ) -> None:
        if faces not in ("all", "largest"):
            raise ValueError(f"faces must be 'all' or 'largest', got {faces!r}")
        if min_size < 0 or not 0 <= min_score <= 1 or batch_size < 1 or max_pixels < 1:
            raise ValueError(
                "expected min_size of 0 or more, min_score in 0…1, batch_size and max_pixels of 1 or more, "
                f"got {min_size}, {min_score}, {batch_size}, {max_pixels}"
            )
        if any_angle and detector is not None:
            raise ValueError("any_angle is a setting of the detector; give MTCNNDetector(any_angle=True)")
        self.network, self._backend = load_backend(model, backend, device)
        self.labels = _left(self.network.labels, without)
        self.detector = detector if detector is not None else MTCNNDetector(any_angle=any_angle, device=device)
        self.missing = check_missing(missing)
        self.faces = faces
        self.min_size = min_size
        self.min_score = min_score
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.embeddings = embeddings
        if embeddings and self.backend == "onnx":
            raise no_embeddings()
        # Finds landmarks in given boxes, also where another detector finds the faces.
        self._mtcnn = self.detector if isinstance(self.detector, MTCNNDetector) else MTCNNDetector(device=device)

    def to(self, device: torch.device | str) -> ExpressionRecognizer:
        """Move the networks; returns the recognizer itself. A detector of the user's stays where it is.

        Raises:
            ValueError: If ONNX Runtime runs the network and the device is not the CPU.
        """
        self._backend.to(device)
        self._mtcnn.to(device)
        return self

    @property
    def backend(self) -> str:
        """What runs the network: "torch" or "onnx"."""
        return self._backend.name

    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[Faces]: ...

    @overload
    def __call__(self, images: ImageLike, boxes: Any = None, landmarks: Any = None) -> Faces: ...

    def __call__(
        self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...], boxes: Any = None, landmarks: Any = None
    ) -> Faces | list[Faces]:
        """Faces of an image; or of each image of a list, in order. For folders see :meth:`stream`.

        Args:
            images: An image (see :func:`~mrcar_timm.images.to_rgb`), or a list of images of any sizes.
            boxes: (N, 4), x1 y1 x2 y2 in pixels, if the faces of the one image are known. There is a result
                for each, in the same order.
            landmarks: (N, 5, 2) in pixels (eyes, nose, mouth corners, the image's left first), if known.

        Raises:
            ImageError: If an image cannot be read.
            NoFaceError: If no face is found, or none in a given box, and ``missing`` is "raise".
            ValueError: If boxes or landmarks are no such arrays.
        """
        if isinstance(images, (list, tuple)):
            if boxes is not None or landmarks is not None:
                raise ValueError("boxes and landmarks go with one image; call once for each")
            return [_or_raise(faces) for faces in self.stream(images)]
        if boxes is None and landmarks is None:
            return _or_raise(next(self.stream([images])))
        item = _Item(images, *read_rgb(images, self.max_pixels))
        item.located = self._given(item, boxes, landmarks)
        return self._classified([item])[0]

    def stream(self, images: Iterable[ImageLike] | str | os.PathLike[str]) -> Iterator[Faces | MRCARError]:
        """For each image, its faces or the error that was raised.

        Up to eight images are read ahead and go through the networks together.

        Args:
            images: Images of any sizes; or a folder, whose images, and those of its subfolders, come in the order of
                their names. Files that are no images are left out; folders that cannot be looked into are named by an
                :class:`~mrcar_timm.images.UnreadableFolderWarning`.
        """
        if isinstance(images, (str, os.PathLike)):
            found = find_images(Path(images))
            for path, reason in found.unreadable.items():
                warnings.warn(f"{path}: {reason}", UnreadableFolderWarning, stacklevel=2)
            images = found.files
        batch: list[_Item] = []
        pixels = 0
        for source in images:
            item = _Item(source)
            try:
                item.image, item.size = read_rgb(source, self.max_pixels)
                pixels += item.image.size // 3
            except MRCARError as error:
                item.error = error
            batch.append(item)
            if len(batch) == _IMAGES or pixels > _PIXELS:
                yield from self._batch(batch)
                batch, pixels = [], 0
        yield from self._batch(batch)

    def _batch(self, batch: list[_Item]) -> list[Faces | MRCARError]:
        """For each image of a batch, its faces or the error that was raised."""
        readable = [item for item in batch if item.error is None]
        scales = [item.size[1] / item.image.shape[0] for item in readable]
        for item, found in zip(readable, self.locate([item.image for item in readable], scales), strict=True):
            self._set_located(item, found)
        usable = [item for item in readable if item.error is None]
        faces = iter(self._classified(usable))
        return [next(faces) if item.error is None else item.error for item in batch]

    def locate(self, images: list[np.ndarray], scales: list[float] | None = None) -> list[Located]:
        """The faces that the settings ask for, in RGB images (H, W, 3) of type uint8; none where there are none.

        Args:
            images: Images.
            scales: Height of each file over that of its image, where it was reduced; 1 if None.
        """
        results = []
        every = locate_faces(images, self.detector, self.faces == "largest")
        for located, scale in zip(every, scales or [1.0] * len(images), strict=True):
            faces = located.faces
            heights = (faces.boxes[:, 3] - faces.boxes[:, 1]) * scale
            # An image that is a face crop has no score.
            passed = ~(faces.scores < self.min_score) & (heights >= self.min_size)
            results.append(Located(faces.choose(passed), located.sources[: int(passed.sum())]))
        return results

    def _set_located(self, item: _Item, located: Located) -> None:
        """Give an image its faces, or what the user wants where there are none."""
        item.located = located
        if not located.sources and self.missing == "raise":
            name = f"{item.source}: " if isinstance(item.source, (str, os.PathLike)) else ""
            item.error = NoFaceError(f"{name}no face found")
        elif not located.sources and self.missing == "full_image":
            item.located = template_face(item.image)

    def _given(self, item: _Item, boxes: Any, landmarks: Any) -> Located:
        """Faces that the caller knows, in pixels of the image as it was read."""
        width, height = item.size
        if boxes is not None:
            boxes = _points(boxes, (4,), "boxes")
            low, high = boxes[:, :2], boxes[:, 2:]
            if not ((low < high) & (low < [width, height]) & (high > 0)).all():
                raise ValueError(f"boxes must be x1 < x2, y1 < y2 and meet the image of {width}×{height} pixels")
        reduced = np.array(item.image.shape[1::-1], np.float32) / item.size
        if boxes is not None:
            boxes = boxes * np.tile(reduced, 2)
        if landmarks is None:
            located = locate_in_boxes(item.image, boxes, self._mtcnn)
            if self.missing == "raise" and "template" in located.sources:
                raise NoFaceError(f"no face found in box {located.sources.index('template')}")
            return located
        landmarks = _points(landmarks, (5, 2), "landmarks")
        if boxes is not None and len(boxes) != len(landmarks):
            raise ValueError(f"{len(boxes)} boxes but landmarks of {len(landmarks)} faces")
        return locate_by_landmarks(landmarks * reduced, boxes)

    def _classified(self, items: list[_Item]) -> list[Faces]:
        """All faces of some images, through the network together."""
        regions, size = self.network.regions, self.network.size
        crops = [np.zeros((0, len(regions), 3, *size), np.float32)]
        for item in items:
            if item.located.sources:
                crops.append(cut_regions(item.image, item.located.faces.landmarks, regions, size))
                if isinstance(item.source, np.ndarray):
                    _warn_of_bgr(crops[-1])
        probabilities, embeddings = self._outputs(np.concatenate(crops), self.embeddings)
        rows = zip(probabilities.tolist(), embeddings, strict=True)
        results = []
        for item in items:
            found, sources = item.located.faces, item.located.sources
            scale = np.array(item.size, np.float32) / item.image.shape[1::-1]
            places = zip(found.boxes * np.tile(scale, 2), found.scores, found.landmarks * scale, sources, strict=True)
            faces = []
            for place in places:
                row, embedding = next(rows)
                faces.append(Face(**face_values(*place, row, self.labels, item.size), embedding=embedding))
            path = Path(item.source) if isinstance(item.source, (str, os.PathLike)) else None
            results.append(Faces(faces, not sources or set(sources) == {"template"}, item.size, path, self.labels))
        return results

    def probabilities(self, regions: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, labels) of regions (N, R, 3, h, w) with values in 0…1, of any exposure."""
        return self._outputs(regions, embed=False)[0]

    def _outputs(self, regions: np.ndarray, embed: bool) -> tuple[np.ndarray, Sequence[np.ndarray | None]]:
        """Probabilities, and for each face its embedding, or None where it is not asked for."""
        if not len(regions):
            return np.zeros((0, len(self.labels)), np.float32), []
        regions = self._normalized(regions)
        batches = (regions[start : start + self.batch_size] for start in range(0, len(regions), self.batch_size))
        outputs = [self._backend.with_embeddings(batch) if embed else (self._backend(batch), None) for batch in batches]
        logits = np.concatenate([logits for logits, _ in outputs])
        embeddings: list[np.ndarray | None] = [None] * len(regions)
        if embed:
            embeddings = [_unit(row) for _, rows in outputs if rows is not None for row in rows]
        return softmax(logits[:, [self.network.labels.index(label) for label in self.labels]]), embeddings

    @overload
    def embed(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[np.ndarray]: ...

    @overload
    def embed(self, images: ImageLike) -> np.ndarray: ...

    def embed(self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...]) -> np.ndarray | list[np.ndarray]:
        """Embeddings of the faces of an image, for search and clustering; or of each image of a list, in order.

        They are what the head compares with the direction of each expression, and of length 1, so that the dot product
        of two is their cosine. Faces that look alike in expression are near to one another, whoever they are; it is no
        embedding that tells people apart.

        Args:
            images: An image (see :func:`~mrcar_timm.images.to_rgb`), or a list of images of any sizes.

        Returns:
            (N, D), float32, a row for each face, in the order of a call of the recognizer.

        Raises:
            ExportError: If ONNX Runtime runs the network.
            ImageError: If an image cannot be read.
            NoFaceError: If no face is found, and ``missing`` is "raise".

        Example:
            >>> ExpressionRecognizer().embed("examples/group.jpg") @ embedding  # doctest: +SKIP
            array([0.93, 0.88, 0.91, 0.95, 0.9 ], dtype=float32)
        """
        if self.backend == "onnx":
            raise no_embeddings()
        with_them = copy(self)
        with_them.embeddings = True
        if isinstance(images, (list, tuple)):
            return [with_them._stacked(faces) for faces in with_them(images)]
        return with_them._stacked(with_them(images))

    def _stacked(self, faces: Faces) -> np.ndarray:
        """The embeddings of faces as one array."""
        rows = [face.embedding for face in faces if face.embedding is not None]
        return np.stack(rows) if rows else np.zeros((0, self._backend.embedding_size), np.float32)

    def regions(self, image: ImageLike) -> np.ndarray:
        """What the network sees of the faces of an image: regions (N, R, C, h, w), normalized.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = to_rgb(image, self.max_pixels)
        (located,) = self.locate([pixels])
        crops = cut_regions(pixels, located.faces.landmarks, self.network.regions, self.network.size)
        return self._normalized(crops)

    def explain(self, image: ImageLike, expression: str | None = None) -> list[Explanation]:
        """Where the evidence for the expression of each face lies: heat maps and numbers for each region.

        Maps have the resolution at which the network computes them; :func:`~mrcar_timm.heatmaps.draw_explanations` lays
        them over the regions.

        Args:
            image: See :func:`~mrcar_timm.images.to_rgb`.
            expression: The expression to explain; for each face its likeliest if None.

        Raises:
            ImageError: If the image cannot be read.
            NoFaceError: If no face is found and ``missing`` is "raise".
            ExportError: If the network is an exported one, which has no gradients.
            ValueError: If the expression is not asked for.

        Example:
            >>> recognizer = ExpressionRecognizer()
            >>> for explanation in recognizer.explain("examples/collins.jpg"):  # doctest: +SKIP
            ...     print(explanation.expression, explanation.regions["mouth"].covered)
        """
        if expression is not None and expression not in self.labels:
            raise ValueError(f"expected one of {', '.join(self.labels)}, got {expression!r}")
        model = getattr(self.network, "model", None)
        if model is None:
            raise ExportError(
                f"{self.network.name} was exported without gradients; explain the network it was made from"
            )
        from .explain import explain_regions

        item = _Item(image, *read_rgb(image, self.max_pixels))
        faces = _or_raise(self._batch([item])[0])
        regions, size = self.network.regions, self.network.size
        crops = normalize_exposure(cut_regions(item.image, item.located.faces.landmarks, regions, size))
        asked = [self.network.labels.index(label) for label in self.labels]
        targets = [expression or face.expression for face in faces]
        found = explain_regions(
            model, self._as_input(crops), crops, asked, [self.labels.index(target) for target in targets]
        )
        return [
            Explanation(face, target, face.probabilities[target], regions)
            for face, target, regions in zip(faces, targets, found, strict=True)
        ]

    def _normalized(self, regions: np.ndarray) -> np.ndarray:
        """Regions (N, R, 3, h, w) of values in 0…1 as the network takes them."""
        return self._as_input(normalize_exposure(np.asarray(regions, np.float32)))

    def _as_input(self, regions: np.ndarray) -> np.ndarray:
        """The same of regions that are evenly exposed."""
        if self.network.in_chans == 1:
            regions = (regions * np.array(LUMA, np.float32)[:, None, None]).sum(2, keepdims=True)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.network.mean, self.network.std))
        return (regions - mean) / std


def _unit(embedding: np.ndarray) -> np.ndarray:
    """The vector of length 1 in the same direction."""
    return embedding / max(float(np.linalg.norm(embedding)), np.finfo(np.float32).tiny)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@dataclass
class _Item:
    """An image on its way: what the user gave, its pixels, width and height before it was reduced, and where its faces
    are; or the error that was raised.
    """

    source: ImageLike
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    size: tuple[int, int] = (0, 0)
    located: Located = field(init=False)
    error: MRCARError | None = None


def face_values(
    box: np.ndarray,
    score: float,
    landmarks: np.ndarray,
    source: str,
    probabilities: list[float],
    labels: tuple[str, ...],
    size: tuple[int, int],
) -> dict[str, Any]:
    """The attributes of a :class:`Face` in an image of a width and height, as plain values; NaN is no score."""
    by_name = dict(zip(labels, probabilities, strict=True))
    expression = max(by_name, key=by_name.__getitem__)
    return {
        "box": clipped_box(box, size),
        "box_full": tuple(map(float, box)),
        "landmarks": tuple((float(x), float(y)) for x, y in landmarks),
        "score": None if np.isnan(score) else float(score),
        "expression": expression,
        "probability": by_name[expression],
        "probabilities": by_name,
        "source": source,
    }


def clipped_box(box: np.ndarray, size: tuple[int, int]) -> tuple[float, ...]:
    """A box x1 y1 x2 y2 within an image of a width and height: never less than a pixel of it, also when rounded."""
    limits = np.array(size, float)
    low = np.asarray(box[:2], float).clip(0, limits - 1)
    high = np.maximum(np.asarray(box[2:], float).clip(0, limits), low + 1)
    return (*low.tolist(), *high.tolist())


def _left(labels: tuple[str, ...], without: Collection[str]) -> tuple[str, ...]:
    """The labels that are asked for."""
    unknown = [without] if isinstance(without, str) else [name for name in without if name not in labels]
    if unknown:
        raise ValueError(f"without must be a list of the network's expressions {', '.join(labels)}, got {without!r}")
    left = tuple(label for label in labels if label not in without)
    if len(left) < 2:
        raise ValueError(f"without {', '.join(without)} fewer than two expressions are left of {', '.join(labels)}")
    return left


def _or_raise(faces: Faces | MRCARError) -> Faces:
    if isinstance(faces, MRCARError):
        raise faces
    return faces


def _points(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array (N, *shape) of type float32."""
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if not len(array.shape) == len(shape) + 1 or array.shape[1:] != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, of shape (N, {', '.join(map(str, shape))}), got shape {array.shape}")
    return array


def _warn_of_bgr(regions: np.ndarray) -> None:
    """Skin of every tone is redder than blue in white light."""
    red, _, blue = regions[:, 0].mean((0, 2, 3)).tolist()
    if blue > 1.15 * red + 0.02:
        warnings.warn(
            "the faces are bluer than red; if OpenCV read the image, turn BGR to RGB: image[:, :, ::-1]",
            ColorOrderWarning,
            stacklevel=4,
        )
