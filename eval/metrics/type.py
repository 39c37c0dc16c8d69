"""Figures of the type, over defective images whose type is published; 0 where the defect was missed."""

from collections.abc import Callable
from functools import cache

import numpy as np

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Share, figure
from schemas.taxonomy import family, leaves, similarity


@figure("type, exact", needs=("typed",))
def type_exact(images: PredictionArrays) -> Share:
    """Share of them that were given their type."""
    return _score_types(images, lambda named, true: float(named == true))


@figure("type, family", needs=("typed",))
def type_family(images: PredictionArrays) -> Share:
    """Share of them that were given a type of the same family."""
    return _score_types(images, lambda named, true: float(family(named) == family(true)))


@figure("type, likeness", needs=("typed",))
def type_similarity(images: PredictionArrays) -> Share:
    """Mean likeness of the types in the taxonomy."""
    return _score_types(images, similarity)


def _score_types(images: PredictionArrays, compare: Callable[[str, str], float]) -> Share:
    """Types that the taxonomy does not know are alike where they are equal."""

    @cache
    def score(named: str, true: str) -> float:
        return compare(named, true) if {named, true} <= set(leaves()) else float(named == true)

    scores = np.zeros(len(images.typed))
    for row, (named, true) in enumerate(images.frame.select("defect_type", "true_type").iter_rows()):
        if images.typed[row] and named is not None:
            scores[row] = score(named, true)
    return Share(scores, images.typed)
