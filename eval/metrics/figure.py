"""Defines a figure: one decorated function that declares its title and the images it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from eval.metrics.arrays import PredictionArrays


@dataclass(frozen=True, eq=False)
class Share:
    """A quotient of two sums over images; resamples weight both sums."""

    part: np.ndarray
    """Numerator per image: (images,), numbers of 0 or more, or booleans."""
    among: np.ndarray
    """Denominator per image: (images,), numbers of 0 or more, or booleans."""
    images: np.ndarray | None = None
    """Images that the figure covers, (images,) of booleans; None for those where ``among`` is not 0."""


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of several shares."""

    shares: tuple[Share, ...]


@dataclass(frozen=True, eq=False)
class Ordering:
    """The share of the pairs of a defective and a normal image in which the defective one has the larger score.

    A tie counts half. Resamples weight each pair.
    """

    score: np.ndarray
    """Score per image, (images,); NaN if an image has none."""


Counting = Share | Mean | Ordering
Count = Callable[[PredictionArrays], Counting]
Function = TypeVar("Function", bound=Count)


@dataclass(frozen=True)
class Figure:
    """A figure of every group of images."""

    name: str
    """Its key in ``metrics.json``."""
    title: str
    """Its name on pages."""
    needs: tuple[str, ...]
    count: Count

    @property
    def is_over_defects(self) -> bool:
        """Whether it covers only defects with a known place or type."""
        return set(self.needs) <= {"located", "typed"}


FIGURES: dict[str, Figure] = {}
"""Figures by name, in the order of the files and of the functions in each; importing :mod:`eval.metrics` fills it."""


def figure(title: str, *, needs: tuple[str, ...]) -> Callable[[Function], Function]:
    """Declare a function as a figure, under the function's name.

    The function gets the predictions as arrays and returns what to count. The declaration gives the value and its
    interval, for all images and for each group.

    Args:
        title: Its name on pages.
        needs: Kinds of images, attributes of :class:`~eval.metrics.arrays.PredictionArrays`: ``defective``,
            ``normal``, ``located`` or ``typed``. A group without an image of the first kind lacks the figure; a group
            with few parts of any kind lacks its interval.
    """

    def declare(count: Function) -> Function:
        name = count.__name__
        assert name not in FIGURES, f"two figures are named {name}"
        FIGURES[name] = Figure(name, title, needs, count)
        return count

    return declare
