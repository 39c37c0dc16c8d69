"""Predictions as arrays: one value an image, and the groups they are counted in."""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from eval.statistics import Parts, parts_of
from schemas.geometry import Box, union_iou
from schemas.taxonomy import UNSPECIFIED, family, leaves, similarity

SIZES = (("below 0.1 %", 0.001), ("0.1 to 1 %", 0.01), ("1 to 10 %", 0.1), ("10 % and more", 1.01))
"""Sizes of defects, each up to its bound, as shares of the image. 0.1 % is a square of 32 pixels in one of 1,024."""


GOOD_IOU = 0.5


COUNTS = ("tp", "fn", "tn", "fp")


OVER_DEFECTS = (
    "located",
    "box_iou",
    "box_accuracy",
    "pointing",
    "typed",
    "type_exact",
    "type_family",
    "type_similarity",
)


COLUMNS = (*COUNTS, *OVER_DEFECTS)


Kind = Literal["category", "type", "family", "view", "size"]


class _Images(NamedTuple):
    """The rows as arrays of (images,)."""

    frame: pl.DataFrame
    parts: Parts
    defective: np.ndarray
    said_yes: np.ndarray
    """What counts as Yes: of an unread verdict the opposite of the truth."""
    unread: np.ndarray
    values: np.ndarray
    """(images, columns), 0 where a column does not apply."""
    margin: np.ndarray
    """NaN where the policy gave none."""


class _Grouping(NamedTuple):
    """One way to put the images into groups."""

    names: list[str]
    of: np.ndarray
    """(images,): number of each image's group, -1 for none."""
    own_normals: bool
    """Whether a group is measured against its own normal images, or against all."""


def _images(frame: pl.DataFrame, place_asked: bool) -> _Images:
    defective = (frame["true_answer"] == "Yes").to_numpy()
    unread = frame["answer"].is_null().to_numpy()
    said_yes = np.where(unread, ~defective, (frame["answer"] == "Yes").fill_null(False).to_numpy())
    return _Images(
        frame=frame,
        parts=parts_of(frame["part_id"].to_numpy(), defective),
        defective=defective,
        said_yes=said_yes,
        unread=unread,
        values=np.column_stack(
            [
                defective & said_yes,
                defective & ~said_yes,
                ~defective & ~said_yes,
                ~defective & said_yes,
                *_places(frame, defective & place_asked),
                *_kinds(frame, defective & place_asked),
            ]
        ).astype(float),
        margin=frame["margin"].fill_null(np.nan).to_numpy(),
    )


def _places(frame: pl.DataFrame, defective: np.ndarray) -> list[np.ndarray]:
    """Whether the true place is published, IoU, whether it is good, and whether the first box points into it."""
    located = defective & (frame["true_boxes"].list.len() > 0).to_numpy()
    iou, pointing = np.zeros(len(located)), np.zeros(len(located))
    named = located & (frame["boxes"].list.len() > 0).to_numpy()
    rows = frame.filter(pl.Series(named)).select("boxes", "true_boxes")
    for row, (boxes, true) in zip(np.flatnonzero(named), rows.iter_rows(), strict=True):
        iou[row] = union_iou(boxes, true)
        pointing[row] = any(_points_into(boxes[0], box) for box in true)
    return [located, iou, iou >= GOOD_IOU, pointing]


def _points_into(box: Box, true: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]


def _kinds(frame: pl.DataFrame, defective: np.ndarray) -> list[np.ndarray]:
    """Whether the true type is known, whether the named one is it, is of its family, and how like it is.

    ``unspecified`` is what a set says that publishes no types: nobody could name it.
    """
    typed = defective & (frame["true_type"].is_not_null() & (frame["true_type"] != UNSPECIFIED)).to_numpy()
    scores = np.zeros((len(typed), 3))
    for row, (named, true) in enumerate(frame.select("defect_type", "true_type").iter_rows()):
        if typed[row] and named is not None:
            scores[row] = _alike(named, true)
    return [typed, *scores.T]


@cache
def _alike(named: str, true: str) -> tuple[float, float, float]:
    if not {named, true} <= set(leaves()):
        return (float(named == true),) * 3
    return float(named == true), float(family(named) == family(true)), similarity(named, true)


def _groupings(images: _Images) -> list[_Grouping]:
    """All images, then those of each :data:`Kind`."""
    frame = images.frame
    types = frame["true_type"]
    families = types.map_elements(lambda name: family(name) if name in leaves() else name, return_dtype=pl.String)
    return [
        _Grouping(["all"], np.zeros(frame.height, dtype=np.int64), True),
        _grouping(frame["category"], True),
        _grouping(types, False),
        _grouping(families, False),
        _grouping(frame["view"], True),
        _sizes(frame["area_fraction"], images.defective),
    ]


def _grouping(column: pl.Series, own_normals: bool) -> _Grouping:
    names = sorted(column.drop_nulls().unique())
    number = {name: place for place, name in enumerate(names)}
    return _Grouping(names, np.array([number.get(name, -1) for name in column], dtype=np.int64), own_normals)


def _sizes(column: pl.Series, defective: np.ndarray) -> _Grouping:
    # Before a bound, not up to it: a defect of exactly 1 % is of the larger size.
    found = np.searchsorted([bound for _, bound in SIZES], column.fill_null(0).to_numpy(), side="right")
    found = np.where(defective & column.is_not_null().to_numpy(), found, -1)
    held = sorted(set(found.tolist()) - {-1})
    renumbered = np.full(len(SIZES) + 1, -1)
    renumbered[held] = np.arange(len(held))
    return _Grouping([SIZES[place][0] for place in held], np.where(found < 0, -1, renumbered[found]), False)
