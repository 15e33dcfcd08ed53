"""What the cascade asks of MTCNN's networks, whoever runs them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

#: Distance of two cells of the P-Net, and side of the square that a cell sees, in pixels.
STRIDE, CELL = 2, 12
#: Sides of the squares that R-Net and O-Net see.
R_SIDE, O_SIDE = 24, 48


class Networks(Protocol):
    """P-, R- and O-Net, and what a library does for them faster than NumPy.

    Pixels have values 0…255, of any type.
    """

    #: Number of rows of cells that an image's must be a multiple of, to be looked at by :meth:`propose`.
    rows: int

    def propose(self, pixels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of an image in which the P-Net sees a face.

        Args:
            pixels: (H, W, 3), W even, H 10 more than a multiple of twice :attr:`rows`.
            threshold: Least score of a cell, 0…1.

        Returns:
            Cells (N, 2), row and column; scores (N,), 0…1; offsets (N, 4) of the box's edges x1 y1 x2 y2 from
            the cell's, in parts of its side.
        """

    def pnet(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (h, w) and offsets (h, w, 4) of all cells of an image (H, W, 3) of any size."""

    def rnet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (N, 4) and scores (N,) for crops (N, 24, 24, 3)."""

    def onet(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets (N, 4), landmarks (N, 10), x of all five first, and scores (N,) for crops (N, 48, 48, 3)."""

    def nms(self, boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
        """Which boxes (N, 4) stay, the best first, where one goes that shares more of its union with a better one."""

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """An image (H, W, 3) of type uint8 in another size, by antialiased bilinear sampling, as Pillow's."""

    def to(self, device: Any) -> Networks:
        """The same networks on another device."""
