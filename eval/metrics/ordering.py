"""Computes the share of pairs that a score orders correctly (AUROC), over bootstrap resamples."""

import numpy as np

from eval.metrics.arrays import Grouping, PredictionArrays


class PairOrder:
    """Normal images sorted by score within each block, and the positions of the defective images among them.

    The weight of the normal images below a defective one, with ties counted half, is then a difference of cumulative
    sums.
    """

    def __init__(self, images: PredictionArrays, score: np.ndarray, block: np.ndarray) -> None:
        """Sort the images with a ``score`` within each ``block``; both are (images,)."""
        has = ~np.isnan(score)
        normal, self.bad = np.flatnonzero(has & images.normal), np.flatnonzero(has & images.defective)
        normal = normal[np.lexsort((score[normal], block[normal]))]
        self._normal_part, self._bad_part = images.parts.of[normal], images.parts.of[self.bad]
        self.bounds = np.searchsorted(block[normal], np.arange(block.max() + 2))
        own = block[self.bad]
        self._low, self._high = np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
        for number in np.unique(own):
            start, end = self.bounds[number], self.bounds[number + 1]
            ordered, asked = score[normal[start:end]], score[self.bad[own == number]]
            self._low[own == number] = start + np.searchsorted(ordered, asked, side="left")
            self._high[own == number] = start + np.searchsorted(ordered, asked, side="right")
        self._start = self.bounds[own]

    def weigh(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weigh the pairs of each resample.

        Args:
            weights: Weights of the parts, (draws, parts).

        Returns:
            Cumulative weight of the normal images, weight of the defective images, and the weighted pairs that each
            defective image wins; each (draws, images).
        """
        below = np.zeros((len(weights), len(self._normal_part) + 1))
        np.cumsum(weights[:, self._normal_part], axis=1, out=below[:, 1:])
        bad = weights[:, self._bad_part]
        lower = below[:, self._low]
        if (self._low != self._high).any():
            lower = (lower + below[:, self._high]) / 2
        return below, bad, bad * (lower - below[:, self._start])


class GroupAreas:
    """AUROC of each group of one way to put the images into groups."""

    def __init__(self, grouping: Grouping, order: PairOrder) -> None:
        """Find the images of each group in ``order``."""
        from scipy.sparse import csr_array

        group = grouping.of[order.bad]
        known = np.flatnonzero(group >= 0)
        shape = (len(grouping.names), len(group))
        self._member = csr_array((np.ones(len(known)), (group[known], known)), shape=shape)
        block = np.arange(len(grouping.names)) if grouping.own_normals else np.zeros(len(grouping.names), np.int64)
        self._start, self._end = order.bounds[block], order.bounds[block + 1]

    def compute(self, below: np.ndarray, bad: np.ndarray, won: np.ndarray) -> np.ndarray:
        """Return the AUROC, (draws, groups), from :meth:`PairOrder.weigh`; NaN if a group has no pair."""
        pairs = np.asarray(self._member @ bad.T).T * (below[:, self._end] - below[:, self._start])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self._member @ won.T).T / pairs
