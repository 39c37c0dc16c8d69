"""What a figure is: one decorated function that declares its title, and which images it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from eval.metrics.arrays import PredictionArrays


@dataclass(frozen=True, eq=False)
class Share:
    """A sum over images, divided by another one: resampled as a quotient of two weighted sums."""

    part: np.ndarray
    """(images,), numbers of 0 or more, or booleans: what is counted."""
    among: np.ndarray
    """(images,), likewise: what it is a share of."""
    images: np.ndarray | None = None
    """(images,) of booleans: on which it is computed; None: where ``among`` is not 0."""


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of several shares."""

    shares: tuple[Share, ...]


@dataclass(frozen=True, eq=False)
class Ordering:
    """The share of the pairs of a defective and a normal image in which the defective one has the larger score.

    A tie counts half. Resampled with a weight for each pair.
    """

    score: np.ndarray
    """(images,), NaN where an image has none."""


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
        """Whether it is over defects with a known place or type alone."""
        return set(self.needs) <= {"located", "typed"}


FIGURES: dict[str, Figure] = {}
"""By name; :mod:`eval.metrics` fills it, in the order of the files and of the functions in each."""


def figure(title: str, *, needs: tuple[str, ...]) -> Callable[[Function], Function]:
    """Declare a function a figure, under the function's name.

    The function is given the predictions as arrays and says what to count. One declaration serves the value and its
    interval, of all images and of each group.

    Args:
        title: Its name on pages.
        needs: Kinds of images, attributes of :class:`~eval.metrics.arrays.PredictionArrays`: ``defective``,
            ``normal``, ``located`` or ``typed``. A group without an image of the first kind has no such figure; one
            with few parts of any of them has no interval.
    """

    def declare(count: Function) -> Function:
        name = count.__name__
        assert name not in FIGURES, f"two figures are named {name}"
        FIGURES[name] = Figure(name, title, needs, count)
        return count

    return declare
