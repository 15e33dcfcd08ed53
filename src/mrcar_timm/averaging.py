"""Means over even parts of an axis: images made smaller, whatever their size."""

from __future__ import annotations

import numpy as np


def averaged(values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Means over ``count`` even parts of an axis, the same from either end.

    Where a part does not begin and end between two values, it shares one with the next, as in PyTorch's
    ``adaptive_avg_pool2d``.

    Example:
        >>> averaged(np.array([1.0, 2.0, 4.0]), 2, axis=0).tolist()
        [1.5, 3.0]
    """
    length = values.shape[axis]
    part = np.arange(count)
    first, end = part * length // count, -((part + 1) * length // -count)
    # reduceat adds up from each index to the next, so that every second sum is one of a part; it wants indices inside.
    longer = np.concatenate([values, values.take([0], axis)], axis)
    sums = np.add.reduceat(longer, np.stack([first, end], 1).ravel(), axis)
    counts = (end - first).astype(values.dtype)
    return np.moveaxis(np.moveaxis(sums, axis, -1)[..., ::2] / counts, -1, axis)
