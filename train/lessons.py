"""Lessons of `make learn`: Indus-CoT trajectories on synthetic surfaces, made with the real tools and renderings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cot_builder.corpus.writing import write_split
from cot_builder.inspection.rendering import render_messages, render_tags
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.progress import track
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import stage_output
from schemas.indus_cot import Image, IndusCot
from schemas.trajectory import ToolCall, Trajectory, Turn, Verdict
from train.surfaces import Size, Surface, draw_surface, snap_to_grid

VIEW = "default"
CLOSER, ENOUGH = "Look closer.", "That is enough."
"""Thoughts of the teacher before a crop and before the verdict; short, to keep generation fast."""
CROP_PROBABILITY = {"none": 0.2, "small": 1.0, "large": 0.2}
"""Probability that the teacher crops, by defect size.

A small defect is invisible without a crop, so the teacher always crops there. Elsewhere it seldom does, so a model that
imitates it crops too seldom: `grpo` has to teach it when to look.
"""


@dataclass(frozen=True)
class Lesson:
    """One image to inspect, with its truth."""

    name: str
    category: str
    surface: Surface

    @property
    def verdict(self) -> Verdict:
        """The true verdict."""
        answer: Literal["Yes", "No"] = "No" if self.surface.size == "none" else "Yes"
        return Verdict(answer=answer, boxes=self.surface.boxes, defect_type=self.surface.defect_type)


def draw_lessons(categories: Sequence[int], count: int, mix: dict[Size, float], seed: Sequence[int]) -> list[Lesson]:
    """Draw images of some categories.

    Args:
        categories: Categories, each equally likely.
        count: Number of images.
        mix: Probability of each defect size.
        seed: Equal seeds give equal images.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        category = int(rng.choice(categories))
        size: Size = rng.choice(list(mix), p=list(mix.values())).item()
        found.append(
            Lesson(f"{'-'.join(map(str, seed))}-{number}", f"surface {category}", draw_surface(category, size, rng))
        )
    return found


def write_corpus(folder: Path, taught: Sequence[Lesson], seed: int) -> None:
    """Write an Indus-CoT corpus with one trajectory per lesson, as `indus-cot assemble` does."""
    rng = np.random.default_rng([seed, 7])
    settings = {"seed": seed, "lessons": len(taught)}
    with stage_output(folder, stage="assemble", params=settings, inputs={}) as output:
        rows = (_make_row(lesson, rng.random() < CROP_PROBABILITY[lesson.surface.size]) for lesson in taught)
        output.counts["train"] = write_split(output.path / "data", "train", track(rows, "lessons", len(taught)))
        output.counts["validation"] = 0


def make_trajectory(lesson: Lesson, looks: bool) -> tuple[Trajectory, list[bytes]]:
    """Return the teacher's inspection, and the PNGs that its tools returned; it crops if ``looks``."""
    turns, shown = [], []
    if looks:
        call = ToolCall(tool="crop", arguments={})
        observation, png = Toolbox(lesson.surface.pixels, {}).observe(call)
        assert png is not None
        turns.append(Turn(thought=CLOSER, call=call, observation=observation))
        shown.append(png)
    verdict = lesson.verdict
    turns.append(Turn(thought=ENOUGH))
    pointed = verdict.model_copy(update={"boxes": [snap_to_grid(box) for box in verdict.boxes]})
    return Trajectory(turns=turns, verdict=pointed), shown


def collect_vocabulary(rows: Sequence[Lesson]) -> list[str]:
    """Return the distinct texts of the lessons' chats, as if the teacher always cropped."""
    found: dict[str, None] = {}
    for lesson in rows:
        for message in render_messages(make_trajectory(lesson, looks=True)[0], lesson.category, VIEW)[1:]:
            found |= dict.fromkeys(part["text"] for part in message["content"] if part["type"] == "text")
            found |= dict.fromkeys(json.dumps(call["function"]) for call in message.get("tool_calls", []))
    return list(found)


def _make_row(lesson: Lesson, looks: bool) -> IndusCot:
    inspected, shown = make_trajectory(lesson, looks)
    original = encode_png(lesson.surface.pixels)
    image = Image(bytes=original, path=f"{lesson.name}.png")
    names = [turn.observation.image_sha256 for turn in inspected.turns if turn.observation]
    fields: dict[str, Any] = {
        "id": lesson.name,
        "sample_id": lesson.name,
        "source_set": "learn",
        "category": lesson.category,
        "view": VIEW,
        "split": "train",
        "image": image,
        "image_sha256": sha256(original).hexdigest(),
        "region": None,
        "patch_pairs": [],
        "prior": None,
        "messages": json.dumps(render_messages(inspected, lesson.category, VIEW)),
        "images": [image, *(Image(bytes=png, path=f"{name}.png") for name, png in zip(names, shown, strict=True))],
        "tools": json.dumps(tool_schemas()),
        "trajectory": inspected.model_dump_json(),
        "tagged": render_tags(inspected),
        "answer": inspected.verdict.answer,
        "boxes": inspected.verdict.boxes,
        "defect_type": inspected.verdict.defect_type,
        "tool_calls": [call.tool for call in inspected.calls],
        "gates": [],
        "judge_scores": [],
        "judge_disagreement": None,
        "review_status": "auto",
        "reviewers": 0,
        "teacher": "learn",
        "prompt_version": "1",
        "toolbox_version": TOOLBOX_VERSION,
        "cost_usd": 0.0,
        "licence": "generated",
    }
    return IndusCot(**fields)
