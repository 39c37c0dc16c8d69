"""Computes the figures of all bootstrap resamples at once.

A resample is a weight per physical part. So the sums over the images of every group and every counted column are one
matrix product per chunk of resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.metrics.arrays import Grouping, PredictionArrays
from eval.metrics.figure import Counting, Mean, Ordering, Share
from eval.metrics.ordering import GroupAreas, PairOrder
from eval.statistics import resamples

Shares = tuple[tuple[int, int], ...]
"""Column indices of numerator and denominator, for each share whose mean is the figure."""


class Columns:
    """The columns that the figures count; figures share equal columns."""

    def __init__(self, counted: Mapping[str, Counting], images: int) -> None:
        """Stack the columns of ``counted``, for a number of images."""
        found: dict[bytes, int] = {}
        columns: list[np.ndarray] = []

        def place(column: np.ndarray) -> int:
            column = np.asarray(column, dtype=float)
            key = column.tobytes()
            if key not in found:
                found[key] = len(columns)
                columns.append(column)
            return found[key]

        self.shares: dict[str, Shares] = {
            name: tuple((place(share.part), place(share.among)) for share in shares_of(counting))
            for name, counting in counted.items()
            if not isinstance(counting, Ordering)
        }
        self.values = np.column_stack(columns) if columns else np.empty((images, 0))
        """(images, columns)."""


def shares_of(counting: Share | Mean) -> tuple[Share, ...]:
    """Return the shares whose mean is the figure."""
    return counting.shares if isinstance(counting, Mean) else (counting,)


def images_of(counting: Counting) -> np.ndarray:
    """Return the images that a figure covers, as (images,) of booleans."""
    if isinstance(counting, Ordering):
        return ~np.isnan(counting.score)
    masks = [share.among > 0 if share.images is None else share.images for share in shares_of(counting)]
    return np.logical_or.reduce(masks)


def average_shares(totals: np.ndarray, shares: Shares) -> np.ndarray:
    """Average the shares of column sums, (columns, …); NaN if a denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sum(totals[part] / totals[among] for part, among in shares) / len(shares)


def resample(
    images: PredictionArrays,
    groupings: Sequence[Grouping],
    counted: Mapping[str, Counting],
    columns: Columns,
    draws: int,
    seed: int,
) -> list[dict[str, np.ndarray]]:
    """Return every figure of every resample: per grouping, (draws, groups) by figure name; empty without draws."""
    sums = _sum_over_parts(images, groupings, columns.values)
    orders: dict[tuple[str, bytes], PairOrder] = {}
    areas: list[dict[str, tuple[PairOrder, GroupAreas]]] = []
    for grouping in groupings:
        block = grouping.of if grouping.own_normals else np.zeros_like(grouping.of)
        areas.append({})
        for name, counting in counted.items():
            if isinstance(counting, Ordering):
                # Most groupings have the same order, so share it.
                key = name, block.tobytes()
                if key not in orders:
                    orders[key] = PairOrder(images, counting.score, block)
                areas[-1][name] = orders[key], GroupAreas(grouping, orders[key])
    width = columns.values.shape[1]
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in groupings]
    for weights in resamples(images.parts, draws, seed):
        totals = (sums @ np.ascontiguousarray(weights.T)).reshape(-1, width, len(weights))
        pairs = {id(order): order.weigh(weights) for order in orders.values()}
        start = 0
        for number, grouping in enumerate(groupings):
            own = totals[start : start + len(grouping.names)]
            start += len(grouping.names)
            if not grouping.own_normals:
                own = own + totals[-1]
            own = own.swapaxes(0, 1)
            found[number].append(
                {name: average_shares(own, shares).T for name, shares in columns.shares.items()}
                | {name: area.compute(*pairs[id(order)]) for name, (order, area) in areas[number].items()}
            )
    return [
        {name: np.concatenate([chunk[name] for chunk in chunks]) for name in counted} if chunks else {}
        for chunks in found
    ]


def _sum_over_parts(images: PredictionArrays, groupings: Sequence[Grouping], values: np.ndarray) -> Any:
    """Return a sparse matrix that sums over parts: a row per column of each group; normal images are the last group.

    Groups without their own normals contain only defective images here.
    """
    from scipy.sparse import csr_array

    data, rows, parts, start = [], [], [], 0
    width = values.shape[1]
    normals = Grouping(["normal"], np.where(images.normal, 0, -1), True)
    for names, of, own_normals in [*groupings, normals]:
        inside = of >= 0 if own_normals else (of >= 0) & images.defective
        row, column = np.nonzero(values * inside[:, None])
        data.append(values[row, column])
        rows.append((start + of[row]) * width + column)
        parts.append(images.parts.of[row])
        start += len(names)
    shape = (start * width, images.parts.total)
    return csr_array((np.concatenate(data), (np.concatenate(rows), np.concatenate(parts))), shape=shape)
