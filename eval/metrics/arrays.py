"""Holds predictions as arrays with one value per image, and the groups of images."""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from eval.statistics import group_parts
from schemas.geometry import Box, union_iou
from schemas.taxonomy import UNSPECIFIED, family, leaves

SIZES = (("below 0.1 %", 0.001), ("0.1 to 1 %", 0.01), ("1 to 10 %", 0.1), ("10 % and more", 1.01))
"""Defect sizes with their upper bounds, as shares of the image. 0.1 % is a 32-pixel square in a 1,024-pixel one."""
COUNTS = ("tp", "fn", "tn", "fp")
Kind = Literal["category", "type", "family", "view", "size"]


class PredictionArrays:
    """The rows of one run on one set as arrays of (images,)."""

    def __init__(self, frame: pl.DataFrame, place_asked: bool) -> None:
        """Split ``frame`` into arrays; ``place_asked`` says whether the policy was asked for place and type."""
        self.frame = frame
        self.defective = (frame["true_answer"] == "Yes").to_numpy()
        self.normal = ~self.defective
        self.unread = frame["answer"].is_null().to_numpy()
        yes = (frame["answer"] == "Yes").fill_null(False).to_numpy()
        self.said_yes = np.where(self.unread, self.normal, yes)
        """Whether the answer counts as Yes; an unparsed verdict counts as the opposite of the truth."""
        self.parts = group_parts(frame["part_id"].to_numpy(), self.defective)
        self.margin = frame["margin"].fill_null(np.nan).to_numpy()
        """Margin of Yes over No; NaN if the policy gave none."""
        self.formatted = np.full(len(frame), place_asked)
        """Images whose answer was to follow the agent's grammar."""
        self.in_exact_form = (frame["parse"] == "strict").to_numpy()
        asked = self.defective & place_asked
        self.located = asked & (frame["true_boxes"].list.len() > 0).to_numpy()
        """Defective images whose place is published, if it was asked for."""
        # Sets without published types use `unspecified`, which a policy cannot know.
        known = frame["true_type"].is_not_null() & (frame["true_type"] != UNSPECIFIED)
        self.typed = asked & known.to_numpy()
        """Defective images whose type is published, if it was asked for."""

    @cached_property
    def iou(self) -> np.ndarray:
        """IoU of the regions that predicted and true boxes cover; 0 without true or without predicted boxes."""
        found = np.zeros(len(self.located))
        for row, boxes, true in self.named_places():
            found[row] = union_iou(boxes, true)
        return found

    def named_places(self) -> Iterator[tuple[int, list[Box], list[Box]]]:
        """Yield row, predicted boxes and true boxes of each located image with predicted boxes."""
        named = self.located & (self.frame["boxes"].list.len() > 0).to_numpy()
        rows = self.frame.filter(pl.Series(named)).select("boxes", "true_boxes")
        for row, (boxes, true) in zip(np.flatnonzero(named), rows.iter_rows(), strict=True):
            yield int(row), boxes, true

    def count_outcomes(self, inside: np.ndarray) -> dict[str, int]:
        """Count tp, fn, tn and fp of the images ``inside``, (images,) of booleans."""
        cells = (
            self.defective & self.said_yes,
            self.defective & ~self.said_yes,
            self.normal & ~self.said_yes,
            self.normal & self.said_yes,
        )
        return {name: int((cell & inside).sum()) for name, cell in zip(COUNTS, cells, strict=True)}


class Grouping(NamedTuple):
    """One way to put the images into groups."""

    names: list[str]
    of: np.ndarray
    """(images,): number of each image's group, -1 for none."""
    own_normals: bool
    """Whether a group is measured against its own normal images, or against all."""


def group_images(images: PredictionArrays) -> list[Grouping]:
    """Group all images together, then by each :data:`Kind`."""
    frame = images.frame
    types = frame["true_type"]
    families = types.map_elements(lambda name: family(name) if name in leaves() else name, return_dtype=pl.String)
    return [
        Grouping(["all"], np.zeros(frame.height, dtype=np.int64), True),
        _group_by_value(frame["category"], True),
        _group_by_value(types, False),
        _group_by_value(families, False),
        _group_by_value(frame["view"], True),
        _group_by_size(frame["area_fraction"], images.defective),
    ]


def _group_by_value(column: pl.Series, own_normals: bool) -> Grouping:
    names = sorted(column.drop_nulls().unique())
    number = {name: place for place, name in enumerate(names)}
    return Grouping(names, np.array([number.get(name, -1) for name in column], dtype=np.int64), own_normals)


def _group_by_size(column: pl.Series, defective: np.ndarray) -> Grouping:
    # Bounds are exclusive: a defect of exactly 1 % belongs to the larger size.
    found = np.searchsorted([bound for _, bound in SIZES], column.fill_null(0).to_numpy(), side="right")
    found = np.where(defective & column.is_not_null().to_numpy(), found, -1)
    held = sorted(set(found.tolist()) - {-1})
    renumbered = np.full(len(SIZES) + 1, -1)
    renumbered[held] = np.arange(len(held))
    return Grouping([SIZES[place][0] for place in held], np.where(found < 0, -1, renumbered[found]), False)
