"""Area under the ROC curve over bootstrap resamples."""

import numpy as np

from eval.arrays import _Grouping, _Images


class _Order:
    """Normal images in the order of their margins, one block behind the other, and where defective ones fall in it.

    AUROC is the share of pairs that the margin puts in the right order. The weight of the normal images below a
    defective one, ties half, is a difference of cumulative sums.
    """

    def __init__(self, images: _Images, block: np.ndarray) -> None:
        has = ~np.isnan(images.margin)
        normal, self.bad = np.flatnonzero(has & ~images.defective), np.flatnonzero(has & images.defective)
        normal = normal[np.lexsort((images.margin[normal], block[normal]))]
        self._normal_part, self._bad_part = images.parts.of[normal], images.parts.of[self.bad]
        self.bounds = np.searchsorted(block[normal], np.arange(block.max() + 2))
        own = block[self.bad]
        self._low, self._high = np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
        for number in np.unique(own):
            start, end = self.bounds[number], self.bounds[number + 1]
            ordered, asked = images.margin[normal[start:end]], images.margin[self.bad[own == number]]
            self._low[own == number] = start + np.searchsorted(ordered, asked, side="left")
            self._high[own == number] = start + np.searchsorted(ordered, asked, side="right")
        self._start = self.bounds[own]

    def of(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of weights (draws, parts): cumulative weight of the normal images, weight of the defective ones, and the
        weighted pairs that each of them wins; each (draws, images)."""
        below = np.zeros((len(weights), len(self._normal_part) + 1))
        np.cumsum(weights[:, self._normal_part], axis=1, out=below[:, 1:])
        bad = weights[:, self._bad_part]
        lower = below[:, self._low]
        if (self._low != self._high).any():
            lower = (lower + below[:, self._high]) / 2
        return below, bad, bad * (lower - below[:, self._start])


class _Area:
    """AUROC of each group of one way to put the images into groups."""

    def __init__(self, grouping: _Grouping, order: _Order) -> None:
        from scipy.sparse import csr_array

        group = grouping.of[order.bad]
        known = np.flatnonzero(group >= 0)
        shape = (len(grouping.names), len(group))
        self._member = csr_array((np.ones(len(known)), (group[known], known)), shape=shape)
        block = np.arange(len(grouping.names)) if grouping.own_normals else np.zeros(len(grouping.names), np.int64)
        self._start, self._end = order.bounds[block], order.bounds[block + 1]

    def of(self, below: np.ndarray, bad: np.ndarray, won: np.ndarray) -> np.ndarray:
        """(draws, groups) of what :meth:`_Order.of` gives; NaN where a group has no pair."""
        pairs = np.asarray(self._member @ bad.T).T * (below[:, self._end] - below[:, self._start])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self._member @ won.T).T / pairs
