"""Figures of the type, over defective images with a published type; a missed defect scores 0."""

from collections.abc import Callable
from functools import cache

import numpy as np

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Share, figure
from schemas.taxonomy import family, leaves, similarity


@figure("type, exact", needs=("typed",))
def type_exact(images: PredictionArrays) -> Share:
    """Share of the images with the right type."""
    return _score_types(images, lambda named, true: float(named == true))


@figure("type, family", needs=("typed",))
def type_family(images: PredictionArrays) -> Share:
    """Share of the images with a type of the right family."""
    return _score_types(images, lambda named, true: float(family(named) == family(true)))


@figure("type, similarity", needs=("typed",))
def type_similarity(images: PredictionArrays) -> Share:
    """Mean similarity of the types in the taxonomy."""
    return _score_types(images, similarity)


def _score_types(images: PredictionArrays, compare: Callable[[str, str], float]) -> Share:
    """Score each typed image with ``compare``; types outside the taxonomy score 1 if equal, else 0."""

    @cache
    def score(named: str, true: str) -> float:
        return compare(named, true) if {named, true} <= set(leaves()) else float(named == true)

    scores = np.zeros(len(images.typed))
    for row, (named, true) in enumerate(images.frame.select("defect_type", "true_type").iter_rows()):
        if images.typed[row] and named is not None:
            scores[row] = score(named, true)
    return Share(scores, images.typed)
