"""Intervals and paired tests whose random unit is the physical part, not the image.

Images of one part are strongly correlated, so an interval that resamples images is too narrow. The bootstrap (Efron
1979) therefore draws whole parts with replacement, as many as there are, in three strata: normal parts, defective
parts, and parts with images of both labels. Each resample thus has as many parts of each kind as the benchmark.
Categories are not strata: a category with two parts that agree would appear certain.

A resample is a weight for each part, so every figure of every group is a matrix product of the parts' counts and the
weights of all resamples. Intervals are the 2.5th and 97.5th percentiles. If all images of a group are right, or all are
wrong, every resample agrees and the interval has zero width; it carries no information then.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

LEVELS = (2.5, 97.5)
FEWEST_PARTS = 5
"""Minimum number of parts with each label for an interval."""
CHUNK = 2**18
"""Maximum number of weights in memory."""
PERMUTATIONS = 9999


class Parts(NamedTuple):
    """The physical parts of some images."""

    of: np.ndarray
    """(images,): index of each image's part."""
    stratum: np.ndarray
    """(parts,): index of each part's stratum."""

    @property
    def total(self) -> int:
        return len(self.stratum)


def group_parts(names: np.ndarray, defective: np.ndarray) -> Parts:
    """Group images by part name, and parts into strata by the labels of their images; both arrays are (images,)."""
    _, index = np.unique(names, return_inverse=True)
    has_defect = np.bincount(index, weights=defective) > 0
    has_normal = np.bincount(index, weights=~defective) > 0
    _, stratum = np.unique(has_defect * 2 + has_normal, return_inverse=True)
    return Parts(index, stratum)


def resamples(parts: Parts, draws: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """Yield how often each part is drawn: arrays of (some draws, parts), ``draws`` rows in total."""
    rng = np.random.default_rng(seed)
    order = np.argsort(parts.stratum, kind="stable")
    sizes = np.bincount(parts.stratum)
    size, start = np.repeat(sizes, sizes), np.repeat(np.cumsum(sizes) - sizes, sizes)
    step = max(1, CHUNK // parts.total)
    for done in range(0, draws, step):
        rows = min(step, draws - done)
        drawn = (rng.random((rows, parts.total)) * size).astype(np.int64)
        drawn += start + np.arange(rows)[:, None] * parts.total
        counted = np.bincount(drawn.ravel(), minlength=rows * parts.total).reshape(rows, parts.total)
        weights = np.empty((rows, parts.total))
        weights[:, order] = counted
        yield weights


def count_by_part(parts: Parts, defective: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Count tp, fn, tn, fp of each part from boolean arrays of shape (images,); returns (parts, 4)."""
    columns = (defective & right, defective & ~right, ~defective & right, ~defective & ~right)
    return np.column_stack([np.bincount(parts.of, weights=column, minlength=parts.total) for column in columns])


def balanced_accuracy_of(counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy of (…, 4) counts from :func:`count_by_part`; both labels must occur."""
    tp, fn, tn, fp = np.moveaxis(counts, -1, 0)
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % interval of each column of (draws, figures); NaN if a figure is undefined in every resample.

    Resamples in which a figure is undefined are left out.
    """
    never = np.isnan(drawn).all(axis=0)
    if not drawn.size:
        return np.full(len(never), np.nan), np.full(len(never), np.nan)
    low, high = np.nanpercentile(np.where(never, 0.0, drawn), LEVELS, axis=0)
    return np.where(never, np.nan, low), np.where(never, np.nan, high)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (1947) on two boolean arrays of (images,) that say which answers were right.

    Returns:
        Number of images that only the first run has right, that only the second has right, and the two-sided p-value.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def permutation_p(gains: np.ndarray, seed: int) -> float:
    """Two-sided p-value of the sum of ``gains`` (each part's contribution to a difference) if the runs are equal.

    Under that hypothesis the runs of each part can be exchanged: in all combinations if there are few parts, else at
    random (Fisher-Pitman test, scipy's ``permutation_test``).
    """
    from scipy.stats import permutation_test

    # Parts with zero gain do not change the sum.
    gains = gains[gains != 0]
    if len(gains) == 0:
        return 1.0
    if len(gains) == 1:
        # One part can be exchanged in two ways, both equally far from 0.
        return 1.0
    found = permutation_test(
        (gains, np.zeros_like(gains)),
        lambda first, second, axis: (first - second).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, CHUNK // len(gains)),
        rng=seed,
    )
    return float(found.pvalue)
