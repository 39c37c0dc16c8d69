"""Intervals and paired tests that take physical parts, not images, for what was drawn at random.

Several images of one part say nearly the same: an interval that resamples images is too narrow by as much. So the
bootstrap (Efron 1979) draws whole parts with replacement, as many as there are, apart in three strata: normal parts,
defective ones, and those of which both kinds of image exist. Each resample therefore holds both labels, as many as the
benchmark's list fixes. Categories are no strata: one with two parts that share their fate would seem certain.

One resample is a weight for each part, so that every figure of every group is a product of matrices: a part's counts,
times the weights of all resamples. Intervals are the 2.5th and 97.5th percentile of what comes out. Where every image
of a group is right, or every one is wrong, all resamples agree and the interval has no width: it says nothing there.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

LEVELS = (2.5, 97.5)
FEWEST_PARTS = 5
"""Parts with a label that an interval needs; below, there is none."""
CHUNK = 2**18
"""Weights in memory at once."""
PERMUTATIONS = 9999


class Parts(NamedTuple):
    """The physical parts of some images."""

    of: np.ndarray
    """(images,): number of each image's part."""
    stratum: np.ndarray
    """(parts,): number of each part's stratum."""

    @property
    def total(self) -> int:
        return len(self.stratum)


def parts_of(names: np.ndarray, defective: np.ndarray) -> Parts:
    """Parts by name, in strata by which labels their images have; both arrays are (images,)."""
    _, index = np.unique(names, return_inverse=True)
    has_defect = np.bincount(index, weights=defective) > 0
    has_normal = np.bincount(index, weights=~defective) > 0
    _, stratum = np.unique(has_defect * 2 + has_normal, return_inverse=True)
    return Parts(index, stratum)


def resamples(parts: Parts, draws: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """How often each part is drawn: arrays of (some draws, parts), ``draws`` in all."""
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


def by_part(parts: Parts, defective: np.ndarray, right: np.ndarray) -> np.ndarray:
    """tp, fn, tn, fp of each part: (parts, 4), of boolean arrays of (images,)."""
    columns = (defective & right, defective & ~right, ~defective & right, ~defective & ~right)
    return np.column_stack([np.bincount(parts.of, weights=column, minlength=parts.total) for column in columns])


def balanced(counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy of (…, 4) counts as :func:`by_part` gives them; both labels are there."""
    tp, fn, tn, fp = np.moveaxis(counts, -1, 0)
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % interval of each column of (draws, figures); NaN where a figure is never defined.

    Resamples in which a figure is not defined are left out of it.
    """
    never = np.isnan(drawn).all(axis=0)
    if not drawn.size:
        return np.full(len(never), np.nan), np.full(len(never), np.nan)
    low, high = np.nanpercentile(np.where(never, 0.0, drawn), LEVELS, axis=0)
    return np.where(never, np.nan, low), np.where(never, np.nan, high)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (1947) on who was right, two boolean arrays of (images,).

    Returns:
        Images that only the first has right, that only the second has right, and the two-sided p-value.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def permutation_p(gains: np.ndarray, seed: int) -> float:
    """Two-sided p-value of the sum of ``gains``, what each part adds to a paired difference, if the two runs are alike.

    Then which run a part's answers came from is as good as tossed: the runs are exchanged part by part, all ways where
    there are few, else at random (the Fisher-Pitman test, as scipy has it).
    """
    from scipy.stats import permutation_test

    # Exchanging what is equal changes nothing.
    gains = gains[gains != 0]
    if len(gains) == 0:
        return 1.0
    if len(gains) == 1:
        # Two ways to exchange one part, both as far from 0.
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
