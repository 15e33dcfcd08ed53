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
    lengths = end - first
    front = np.ascontiguousarray(np.moveaxis(values, axis, 0))
    sums = front[first]
    for step in range(1, lengths.max()):  # the second value of each part, the third, …
        longer = lengths > step
        sums[longer] += front[first[longer] + step]
    means = sums / lengths.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return np.moveaxis(means, 0, axis)
