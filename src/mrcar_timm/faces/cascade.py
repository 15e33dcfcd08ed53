"""MTCNN's cascade, from images to faces: P-Net proposes, R-Net rejects, O-Net decides and finds landmarks.

Coordinates are continuous, as in :mod:`~mrcar_timm.regions.geometry`. Against facenet-pytorch's driver of the
same networks, crops and mapping use one and the same window, which may leave the image (black there), and
both look again: the R-Net at the boxes that it gave, the O-Net two to four times at the face turned upright by the
landmarks that it gave before, and at its mirror image. So landmarks of turned faces become better, a face that lies
askew in its first crop is found all the same, and what is no face seldom scores high in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..regions.geometry import TEMPLATE, similarity_from_landmarks
from .detector import Detections
from .networks import CELL, O_SIDE, R_SIDE, STRIDE, Networks
from .pyramid import Halves, pyramid_sizes, sheets, stacked

# The template's landmarks, turned about the middle of the face.
_UPSIDE_DOWN = np.array([1.0, 1.1]) - TEMPLATE
_NO_BOXES, _NO_SCORES = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


@dataclass
class Found:
    """What the O-Net sees in some images.

    Attributes:
        boxes: (N, 4).
        scores: (N,).
        landmarks: (N, 5, 2).
        index: (N,), the image that each is in.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def choose(self, which: np.ndarray) -> Found:
        """Some of it, by index or mask."""
        return Found(self.boxes[which], self.scores[which], self.landmarks[which], self.index[which])

    def distinct(self, overlap: float, pixel: int = 0) -> Found:
        """The best of those that share more than so much of the smaller box."""
        return self.choose(nms_by_smaller(self.boxes, self.scores, self.index, overlap, pixel))


class Cascade:
    """Finds faces in images.

    Args:
        networks: P-, R- and O-Net.
    """

    #: Overlaps above which the lesser of two boxes goes, before and after the R-Net.
    overlaps = (0.5, 0.3)
    #: Most cells of an image, the best ones, that are compared with each other.
    most_cells = 8192
    #: Score up to which the R-Net does not look again.
    hopeless = 0.03
    #: Parts of their thresholds that suffice for the R-Net's second look and the O-Net's first one: a face that lies
    #: askew in its box scores low at first.
    leniency = (0.5, 0.1)
    #: Mean of two later looks that such a face must reach.
    sure = 0.85
    #: Score from which a face is not upside down.
    beyond_doubt = 0.998
    #: What a box's side is longer than the difference of its edges.
    pixel = 0

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def __call__(
        self,
        images: list[Halves],
        min_face_size: float,
        thresholds: tuple[float, float, float],
        factor: float,
        most: int | None = None,
    ) -> list[Detections]:
        """Faces of each image, largest first.

        Args:
            images: Images of any sizes.
            min_face_size: Height in pixels of the smallest face to be found.
            thresholds: Scores that the P-, R- and O-Net must pass, 0…1.
            factor: Ratio of one size of the pyramid to the one before.
            most: The O-Net looks at so many candidates only, the largest ones over all images that the R-Net
                is sure of at its first look.
        """
        again = most is None
        threshold = thresholds[1] * (self.leniency[0] if again else 1)
        candidates = []
        for image in images:
            proposals, promising = self._propose(image, min_face_size, thresholds[0], factor)
            if most is not None:
                proposals = proposals[:promising]
            candidates.append(self._reject(image, proposals, promising, threshold, again))
        boxes = np.concatenate(candidates)
        index = np.repeat(np.arange(len(candidates)), [len(some) for some in candidates])
        if most is not None:
            largest = (boxes[:, 0] - boxes[:, 2]).argsort(kind="stable")[:most]
            boxes, index = boxes[largest], index[largest]
        found = self._decide(images, boxes, index, thresholds[2])
        return [_largest_first(found.choose(found.index == k)) for k in range(len(images))]

    def look(
        self, images: list[Halves], landmarks: np.ndarray, index: np.ndarray, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the O-Net says of faces whose landmarks are known nearly, cut out upright by these.

        Args:
            images: Images of any sizes.
            landmarks: (N, 5, 2) in pixels.
            index: (N,), which image a face is in.
            mirrored: Look at their mirror images.

        Returns:
            Boxes (N, 4), scores (N,), landmarks (N, 5, 2).
        """
        frames = similarity_from_landmarks(landmarks)
        places = zip(frames, index.tolist(), strict=True)
        pixels = stacked([images[k].turned_crop(frame, O_SIDE) for frame, k in places], O_SIDE)
        offsets, points, scores = self.networks.onet(pixels[:, :, ::-1] if mirrored else pixels)
        points = _pairs(points)
        if mirrored:
            offsets = offsets[:, [2, 1, 0, 3]] * (-1, 1, -1, 1)
            points = points[:, [1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
        side = np.linalg.norm(frames[:, :2, 0], axis=1, keepdims=True)
        edges = offsets + np.array([0.0, 0.0, 1.0, 1.0])  # in the frame
        centre = _mapped(frames, (edges[:, None, :2] + edges[:, None, 2:]) / 2)[:, 0]
        half = (edges[:, 2:] - edges[:, :2]) * side / 2
        boxes = np.concatenate([centre - half, centre + half], 1)
        return boxes.astype(np.float32), scores, _mapped(frames, points).astype(np.float32)

    def landmarks_in(self, image: Halves, boxes: np.ndarray) -> np.ndarray:
        """Landmarks (N, 5, 2) of faces in boxes (N, 4), by the O-Net's first look."""
        squares = square(boxes)
        _, points, _ = self.networks.onet(self._crops([image], squares, np.zeros(len(boxes), int), O_SIDE))
        return self._landmarks(squares, points)

    def _propose(self, image: Halves, min_face_size: float, threshold: float, factor: float) -> tuple[np.ndarray, int]:
        """Squares (N, 4), best first, and how many of them are promising."""
        boxes, scores, offsets = self._cells(image, min_face_size, threshold, factor)
        if len(scores) > self.most_cells:
            best = np.argpartition(-scores, self.most_cells)[: self.most_cells]
            boxes, scores, offsets = boxes[best], scores[best], offsets[best]
        keep = self.networks.nms(boxes, scores, self.overlaps[0])
        squares = square(self._regress(boxes[keep], offsets[keep]))
        usable = _has_area(squares)
        return squares[usable], self._promising(scores[keep][usable])

    def _promising(self, scores: np.ndarray) -> int:
        """How many of the proposals, best first, the R-Net looks at in any case: 96, or all that are almost sure."""
        return max(96, int((scores > 0.95).sum()))

    def _cells(
        self, image: Halves, min_face_size: float, threshold: float, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4), scores (N,) and offsets (N, 4) of the P-Net, over all sizes of the pyramid."""
        wanted = pyramid_sizes(image.height, image.width, CELL / min_face_size, factor, CELL)
        found = [(_NO_BOXES, _NO_SCORES, _NO_BOXES)]
        for sheet in sheets(image, wanted, STRIDE * self.networks.rows, CELL - STRIDE):
            cells, scores, offsets = self.networks.propose(sheet.pixels, threshold)
            corners = cells[:, ::-1] * STRIDE
            low = np.array([[tile.x, tile.y] for tile in sheet.tiles])
            size = np.array([[tile.width, tile.height] for tile in sheet.tiles])
            within = (corners[:, None] >= low) & (corners[:, None] + CELL <= low + size)  # (N, tiles, 2)
            cell, tile = within.all(2).nonzero()  # cells across two tiles are none
            scale = np.array([image.width, image.height], np.float32) / size[tile].astype(np.float32)
            corners = (corners[cell] - low[tile]).astype(np.float32)
            boxes = np.concatenate([corners * scale, (corners + CELL) * scale], 1)
            found.append((boxes, scores[cell], offsets[cell]))
        boxes, scores, offsets = (np.concatenate(x) for x in zip(*found, strict=True))
        return boxes, scores, offsets

    def _reject(
        self, image: Halves, proposals: np.ndarray, promising: int, threshold: float, again: bool
    ) -> np.ndarray:
        """Squares (N, 4) of the proposals that the R-Net lets pass, at its second look if it looks ``again``.

        It looks at all promising ones, then at as many again at a time, for as long as the last ones, or the last two
        thirds of the promising ones, have added a face.
        """
        known, found = _NO_BOXES, [(_NO_BOXES, _NO_BOXES, _NO_SCORES)]
        third = max(1, -(-promising // 3))
        ends = [third, *range(3 * third, len(proposals), 3 * third)]
        parts = np.split(proposals, ends) if len(proposals) > third else [proposals]
        # The richer an image, the fainter the faces in it that are a reason to go on.
        needed = 0.9 - 0.4 * min(1, max(0, promising - 96) / 96)
        for part, some in enumerate(parts):
            squares, boxes, scores = self._rated(image, some, again)
            keep = scores > threshold
            found.append((squares[keep], boxes[keep], scores[keep]))
            likely = boxes[scores > needed]
            new = bool((shared_by_smaller(likely, known) < 0.5).all(1).any())
            if part and not new:
                break
            known = np.concatenate([known, likely])
        squares, boxes, scores = (np.concatenate(x) for x in zip(*found, strict=True))
        squares = square(boxes[self.networks.nms(squares, scores, self.overlaps[1])])
        return squares[_has_area(squares)]

    def _rated(self, image: Halves, squares: np.ndarray, again: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the R-Net says of squares: those that it looked at last, its boxes in them (N, 4) and scores (N,).

        A face that lies askew in its square scores low at first, so it looks again at the boxes that it gave, once
        at those that are nearly the same.
        """
        offsets, scores = self.networks.rnet(self._crops([image], squares, np.zeros(len(squares), int), R_SIDE))
        boxes = self._regress(squares, offsets, self.pixel)
        if not again:
            return squares, boxes, scores
        hopeful = scores > self.hopeless
        squares, scores = square(boxes[hopeful]), scores[hopeful]
        squares = squares[self.networks.nms(squares, scores, 0.6)]
        return self._rated(image, squares[_has_area(squares)], again=False)

    def _decide(self, images: list[Halves], squares: np.ndarray, index: np.ndarray, threshold: float) -> Found:
        """The faces among candidates in squares (N, 4)."""
        offsets, points, scores = self.networks.onet(self._crops(images, squares, index, O_SIDE))
        boxes = self._regress(squares, offsets, self.pixel)
        found = Found(boxes, scores, self._landmarks(squares, points), index)
        found = found.choose((found.scores > threshold * self.leniency[1]) & _has_area(boxes))
        return self._confirmed(images, found.distinct(0.7, self.pixel), threshold)

    def _confirmed(self, images: list[Halves], found: Found, threshold: float) -> Found:
        """The faces among what the first look found."""
        found = self._settled(images, found, threshold)
        return found.choose(self.upright(images, found.landmarks, found.scores, found.index))

    def _settled(self, images: list[Halves], found: Found, threshold: float) -> Found:
        """What is a face by further looks, every second of them at its mirror image.

        A face is one from some look on and in the mirror; what is none is one now and then. So two looks in a row
        decide: the first two further ones for what passed the threshold before them; two later ones for all others,
        which must reach :attr:`sure`. Scores and landmarks are the means of both, so that they have no side.
        """
        passed = found.scores > threshold
        needed = np.where(passed, threshold, 1.0)
        faces = [found.choose(np.zeros(0, int))]
        for look in range(1, 5):
            if not len(found):
                break
            before = found
            boxes, scores, landmarks = self.look(images, found.landmarks, found.index, mirrored=look % 2 == 0)
            # The first look's box is kept where it saw a face.
            boxes = np.where(passed[:, None], found.boxes, boxes)
            found = Found(boxes, scores, landmarks, found.index)
            both = Found(boxes, (scores + before.scores) / 2, (landmarks + before.landmarks) / 2, found.index)
            settled = (both.scores > needed) & (look > 1)
            faces.append(both.choose(settled))
            rest = ~settled & (passed | (scores > 0.2))
            found, passed, needed = found.choose(rest), passed[rest], needed[rest]
            if look > 1:
                needed[:] = max(threshold, self.sure)
        every = Found(*(np.concatenate([getattr(some, field.name) for some in faces]) for field in fields(Found)))
        return every.distinct(0.6)  # looks that began beside each other may end at the same face

    def upright(self, images: list[Halves], landmarks: np.ndarray, scores: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which faces (N,) are the way up that their landmarks say, and not upside down.

        The O-Net takes eyes for mouths, but is not beyond doubt then. Turned, a face that is upside down scores higher,
        and is one for sure in each of three looks; an upright one is not.
        """
        upright = scores > self.beyond_doubt
        if upright.all():
            return upright
        frames = similarity_from_landmarks(landmarks)
        points = _mapped(frames, _UPSIDE_DOWN).astype(np.float32)
        least = scores.clip(min=0.99)
        for _ in range(3):
            doubted = np.flatnonzero(~upright)
            if not len(doubted):
                break
            _, turned, points[doubted] = self.look(images, points[doubted], index[doubted])
            upright[doubted] = turned < least[doubted]
            least = np.full_like(least, 0.99)
        return upright

    def _crops(self, images: list[Halves], squares: np.ndarray, index: np.ndarray, side: int) -> np.ndarray:
        """(N, side, side, 3), values 0…255."""
        boxes = zip(squares.tolist(), index.tolist(), strict=True)
        return stacked([images[k].crop(box, side) for box, k in boxes], side)

    def _regress(self, boxes: np.ndarray, offsets: np.ndarray, pixel: int = 0) -> np.ndarray:
        return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + pixel, 2)

    def _landmarks(self, squares: np.ndarray, points: np.ndarray) -> np.ndarray:
        size = squares[:, 2:] - squares[:, :2] + self.pixel
        return (squares[:, :2] - self.pixel)[:, None] + _pairs(points) * size[:, None]


def _has_area(boxes: np.ndarray) -> np.ndarray:
    """Which boxes have sides of a pixel or more."""
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)


def _pairs(points: np.ndarray) -> np.ndarray:
    """The O-Net's landmarks (N, 10), x of all five first, then y, as (N, 5, 2)."""
    return points.reshape(-1, 2, 5).swapaxes(1, 2)


def _mapped(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, K, 2), or (K, 2), of frames (N, 3, 3) in the image."""
    return points @ frames[:, :2, :2].swapaxes(1, 2) + frames[:, None, :2, 2]


def square(boxes: np.ndarray) -> np.ndarray:
    """Squares (N, 4) about the centres of boxes (N, 4), as long as their longer sides."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(1, keepdims=True)
    low = boxes[:, :2] + size * 0.5 - side * 0.5
    return np.concatenate([low, low + side], 1)


def shared_by_smaller(a: np.ndarray, b: np.ndarray, pixel: int = 0) -> np.ndarray:
    """(N, M), the parts that boxes (N, 4) and (M, 4) share of the smaller of the two."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    areas = [(x[:, 2:] - x[:, :2] + pixel).prod(1) for x in (a, b)]
    return (high - low + pixel).clip(min=0).prod(2) / np.minimum(areas[0][:, None], areas[1])


def nms_by_smaller(
    boxes: np.ndarray, scores: np.ndarray, index: np.ndarray, threshold: float, pixel: int
) -> np.ndarray:
    """Which boxes stay where one that lies in a better one goes: overlap is in parts of the smaller box."""
    same = (shared_by_smaller(boxes, boxes, pixel) > threshold) & (index[:, None] == index)
    keep: list[int] = []
    gone = np.zeros(len(boxes), bool)
    for i in (-scores).argsort(kind="stable").tolist():
        if not gone[i]:
            keep.append(i)
            gone |= same[i]
    return np.array(keep, int)


def _largest_first(found: Found) -> Detections:
    return Detections(found.boxes, found.scores, found.landmarks).largest_first()
