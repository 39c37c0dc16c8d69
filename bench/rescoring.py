"""Figures with intervals of 20,000 predictions against a plain Python loop over images that computes the same."""

import random
from bisect import bisect_left, bisect_right
from collections import defaultdict

import numpy as np
import polars as pl

from bench.paired import Row, seconds
from eval.metrics import compute_metrics
from eval.metrics.arrays import SIZES
from schemas.geometry import union_iou
from schemas.metrics import Contamination, EvaluatedImages, Run
from schemas.prediction import PREDICTION
from schemas.taxonomy import family, leaves, similarity

IMAGES = 20_000
DRAWS = 1_000
LOOPED = 20
"""Resamples that the loop is timed on. It takes each like any other, so its time is in proportion to their number."""
RUNS = 3
CATEGORIES = 15
BOXES = 500


def rescore() -> Row:
    """Every group and every figure, AUROC included; two images a part."""
    frame = _predictions()
    run = Run(
        set="mvtec_ad",
        mode="agent",
        rounds="free",
        policy="oracle",
        model="made up",
        model_sha256=None,
        priors="none",
        seed=7,
        parameters={},
        versions={},
    )
    listing = EvaluatedImages(evaluated=IMAGES, available=IMAGES, published=None, same_list=None)
    nothing = Contamination(trained_on=None, categories=[], images=0, zero_shot=None)
    compute_metrics(frame.head(100), run, listing, nothing, draws=10, seed=7)
    rows = frame.to_dicts()
    ratios = []
    for _ in range(RUNS):
        ours = seconds(lambda: compute_metrics(frame, run, listing, nothing, draws=DRAWS, seed=7))
        # What it does once is not in proportion.
        once = seconds(lambda: _loop(rows, 0))
        some = seconds(lambda: _loop(rows, LOOPED))
        ratios.append((once + (some - once) * DRAWS / LOOPED) / ours)
    return Row(
        "rescore",
        f"figures of {IMAGES:,} predictions, {DRAWS:,} resamples",
        f"a Python loop of the same, timed on {LOOPED}",
        float(np.median(ratios)),
        20.0,
        "higher",
    )


def _predictions() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    bad = rng.random(IMAGES) < 0.6
    margin = rng.normal(np.where(bad, 1.0, -1.0), 1.5)
    yes = margin > 0
    corners = rng.integers(0, BOXES, (IMAGES, 2, 2))
    boxes = [[[x, y, x + 200, y + 150] for x, y in pair.tolist()] for pair in corners]
    kinds = rng.choice(leaves(), (IMAGES, 2)).tolist()
    area = 10 ** rng.uniform(-4, -0.5, IMAGES)
    number = np.arange(IMAGES)
    frame = pl.DataFrame(
        {
            "sample_id": [f"mvtec_ad/c/{item:016x}" for item in number],
            "source_set": ["mvtec_ad"] * IMAGES,
            "category": [f"category {item % CATEGORIES}" for item in number],
            "view": ["default"] * IMAGES,
            "part_id": [f"part {item - item // CATEGORIES % 6 * CATEGORIES % (2 * CATEGORIES)}" for item in number],
            "true_answer": np.where(bad, "Yes", "No").tolist(),
            "true_type": [kind if is_bad else None for (kind, _), is_bad in zip(kinds, bad, strict=True)],
            "true_boxes": [pair[:1] if is_bad else [] for pair, is_bad in zip(boxes, bad, strict=True)],
            "area_fraction": [float(share) if is_bad else None for share, is_bad in zip(area, bad, strict=True)],
            "answer": np.where(yes, "Yes", "No").tolist(),
            "boxes": [pair[1:] if said else [] for pair, said in zip(boxes, yes, strict=True)],
            "defect_type": [kind if said else None for (_, kind), said in zip(kinds, yes, strict=True)],
            "parse": ["strict"] * IMAGES,
            "fault": [""] * IMAGES,
            "margin": margin,
            "answer_before": [None] * IMAGES,
            "tools": [["crop"]] * IMAGES,
            "observed": [1] * IMAGES,
            "input_tokens": [1000] * IMAGES,
            "output_tokens": [100] * IMAGES,
            "seconds": [1.0] * IMAGES,
            "cost_usd": [0.0] * IMAGES,
            "transcript": ['{"turns": []}'] * IMAGES,
        },
        schema=PREDICTION.dtypes,
    )
    return PREDICTION.validate(frame)


def _loop(rows: list[dict], draws: int) -> list[dict[tuple[str, str], list[float]]]:
    """All groups' figures once, then of each resample, image by image."""
    facts = []
    parts: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        bad, right = row["true_answer"] == "Yes", row["answer"] == row["true_answer"]
        named = row["defect_type"]
        iou = union_iou(row["boxes"], row["true_boxes"]) if bad and row["boxes"] else 0.0
        alike = similarity(named, row["true_type"]) if bad and named else 0.0
        groups = [("all", ""), ("category", row["category"]), ("view", row["view"])]
        if bad:
            groups += [("type", row["true_type"]), ("family", family(row["true_type"]))]
            groups.append(("size", next(name for name, bound in SIZES if row["area_fraction"] < bound)))
        facts.append((bad, right, iou, iou >= 0.5, alike == 1, alike, row["margin"], groups))
        parts[row["part_id"]].append(number)
    strata: dict[tuple, list[str]] = defaultdict(list)
    for name, members in parts.items():
        strata[rows[members[0]]["category"], *sorted({facts[member][0] for member in members})].append(name)
    drawn = [list(range(len(rows)))]
    chance = random.Random(0)
    for _ in range(draws):
        chosen = [name for names in strata.values() for name in chance.choices(names, k=len(names))]
        drawn.append([member for name in chosen for member in parts[name]])
    return [_figures(facts, members) for members in drawn]


def _figures(facts: list[tuple], members: list[int]) -> dict[tuple[str, str], list[float]]:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 8)
    margins: dict[tuple[str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for member in members:
        bad, right, *scores, margin, groups = facts[member]
        for group in groups:
            counts = sums[group]
            counts[(0 if right else 1) if bad else (2 if right else 3)] += 1
            margins[group][bad].append(margin)
            if bad:
                for place, score in enumerate(scores, 4):
                    counts[place] += score
    found = {}
    normals = sums["all", ""][2:4]
    below = sorted(margins["all", ""][0])
    for group, (tp, fn, passed, alarmed, *scores) in sums.items():
        own = group[0] in ("all", "category", "view")
        tn, fp = (passed, alarmed) if own else normals
        ordered = sorted(margins[group][0]) if own else below
        won = sum((bisect_left(ordered, item) + bisect_right(ordered, item)) / 2 for item in margins[group][1])
        recall, specificity = tp / (tp + fn) if tp + fn else 0.0, tn / (tn + fp) if tn + fp else 0.0
        found[group] = [
            (recall + specificity) / 2,
            recall,
            specificity,
            tp / (tp + fp) if tp + fp else 0.0,
            2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
            won / (len(ordered) * (tp + fn)) if ordered and tp + fn else 0.0,
            *(score / (tp + fn) if tp + fn else 0.0 for score in scores),
        ]
    return found
