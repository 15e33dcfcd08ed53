"""Prints by how many bytes the memory in use grows over 2,000 images of mixed sizes, in a process of its own.

Two things that hold memory without losing it are left out: the heap gives back what is free before each look, and
oneDNN, which keeps what it compiled for the last 1024 shapes, keeps 64 (set by the caller, as it is read at the start).
"""

import ctypes
import math
import sys

import numpy as np
import psutil
from PIL import Image

from mrcar_timm import ExpressionRecognizer, MultiRegionTransform

from .scenes import crowd


def in_use() -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def main() -> None:
    group = Image.fromarray(crowd(5, (640, 480), 0)[0])
    sizes = np.exp(np.random.default_rng(0).uniform(math.log(24), math.log(720), (2000, 2))).astype(int).tolist()
    recognizer, transform = ExpressionRecognizer(), MultiRegionTransform(missing="none")
    for size in [(720, 720), (720, 400), (400, 720), *sizes[:100]]:
        recognizer(group.resize(size))
    before = in_use()
    for k, size in enumerate(sizes):
        (recognizer if k % 2 else transform)(group.resize(size))
    print(in_use() - before)


if __name__ == "__main__":
    main()
