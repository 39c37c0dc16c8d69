"""Makes tables of predictions for tests of figures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from schemas.metrics import Contamination, EvaluatedImages, Run
from schemas.prediction import PREDICTION

BOX = [[100, 100, 200, 200]]
MPDD = {
    "bracket_black": (32, 47),
    "bracket_brown": (26, 51),
    "bracket_white": (30, 30),
    "connector": (30, 14),
    "metal_plate": (26, 71),
    "tubes": (32, 69),
}
"""Normal and defective test images by category, as published."""


def make_predictions(truth: list[bool], **columns: Any) -> pl.DataFrame:
    """Make predictions for images with these truths, all answered No by default; each image is its own part.

    Args:
        truth: Whether each image is defective.
        columns: Column values, one for all images or a list with one per image.
    """
    n = len(truth)
    said = columns.get("answer", "No")
    said = said if isinstance(said, list) else [said] * n
    found: dict[str, Any] = {
        "sample_id": [f"mpdd/tubes/{number:016x}" for number in range(n)],
        "source_set": "mpdd",
        "category": "tubes",
        "view": "default",
        "part_id": [f"part {number}" for number in range(n)],
        "true_answer": ["Yes" if bad else "No" for bad in truth],
        "true_type": ["scratch" if bad else None for bad in truth],
        "true_boxes": [BOX if bad else [] for bad in truth],
        "area_fraction": [0.01 if bad else None for bad in truth],
        "boxes": [BOX if answer == "Yes" else [] for answer in said],
        "defect_type": ["scratch" if answer == "Yes" else None for answer in said],
        "parse": ["strict" if answer else "unparsed" for answer in said],
        "fault": "",
        "margin": None,
        "answer_before": None,
        "tools": [[] for _ in truth],
        "observed": 0,
        "input_tokens": 100,
        "output_tokens": 10,
        "seconds": 0.5,
        "cost_usd": 0.0,
        "transcript": '{"turns": []}',
        "answer": said,
    } | {name: value for name, value in columns.items() if name != "answer"}
    lists = {name: value if isinstance(value, list) else [value] * n for name, value in found.items()}
    return pl.DataFrame(lists, schema=PREDICTION.dtypes)


def make_mpdd_predictions(answer: Callable[[bool, np.random.Generator], str | None]) -> pl.DataFrame:
    """Make the predictions of a policy on images with MPDD's official counts."""
    rng = np.random.default_rng(0)
    truth = [(category, bad) for category, counts in MPDD.items() for bad in (False, True) for _ in range(counts[bad])]
    said = [answer(bad, rng) for _, bad in truth]
    return make_predictions([bad for _, bad in truth], category=[category for category, _ in truth], answer=said)


def make_run(**changed: Any) -> Run:
    """Make the description of a run."""
    facts: dict[str, Any] = {
        "set": "mpdd",
        "mode": "agent",
        "rounds": "free",
        "policy": "oracle",
        "model": "oracle",
        "model_sha256": None,
        "priors": "none",
        "seed": 7,
        "parameters": {},
        "versions": {},
    }
    return Run(**facts | changed)


def make_listing(images: int, published: int | None = None) -> EvaluatedImages:
    """Make a listing of all images of a set; by default it is the published list."""
    published = images if published is None else published
    return EvaluatedImages(evaluated=images, available=images, published=published, same_list=images == published)


UNKNOWN_CONTAMINATION = Contamination(trained_on=None, categories=[], images=0, zero_shot=None)
