"""The offline inspection of a part with a defect."""

import re
from functools import partial

from cot_builder.inspection.appearance import Spot
from cot_builder.teacher import phrasing
from cot_builder.teacher.offline.inspection import Inspection, round_outwards
from cot_builder.teacher.offline.looks import compare_with_twin, examine, rank_operators, word_scale
from cot_builder.teacher.offline.wording import (
    word_defect_verdict,
    word_enhancing,
    word_first_sight,
    word_plan,
    word_reasons,
)
from cot_builder.teacher.phrasing import border, difference, join_clauses, pick, shape, where
from schemas.geometry import Box, area, expand
from schemas.trajectory import Observation, ToolCall, Trajectory, Verdict

OBVIOUS = 3.0
"""Visibility (contrast over noise) at first glance above which no tool is needed."""
SPRAWLING = 160_000
"""Area of a box, in square units of 0-1000 coordinates, above which a crop shows little more than the whole image."""


def inspect_defective(case: Inspection, boxes: list[Box], kind: str) -> Trajectory:
    """Inspect a part with defects in ``boxes``, largest first; ``kind`` is a leaf of the taxonomy."""
    look, main = case.look, boxes[0]
    glance, near = look.measure_downscaled(main), look.measure_spot(main)
    case.say(phrasing.scene(case.rng, case.name, look.scene()))
    if case.chance(0.3):
        case.say(word_plan(case))
    if area(main) > SPRAWLING or (glance.visibility > OBVIOUS and case.chance(0.4)):
        case.say(word_first_sight(case, main, glance, kind))
    else:
        read = partial(_read_defect, case, near, kind)
        examine(case, main, boxes, glance, near, read, _compare_defect, _enhance_defect)
    _mention_other_places(case, boxes[1:])
    case.say(word_reasons(case, main, near, kind), word_defect_verdict(case, boxes, kind))
    return case.conclude(Verdict(answer="Yes", boxes=boxes, defect_type=kind))


def _read_defect(case: Inspection, near: Spot, kind: str) -> str:
    rng = case.rng
    scale = word_scale(case)
    facts = join_clauses([difference(rng, near), shape(rng, near, kind), border(rng, near)])
    return pick(
        rng,
        f"Enlarged{scale}, the area {facts}.",
        f"In the crop{scale} the place itself {facts}.",
        f"The enlarged view{scale} shows an area that {facts}.",
        f"Seen close{scale}, it {facts}.",
    )


def _compare_defect(case: Inspection, main: Box, near: Spot) -> None:
    twin = compare_with_twin(case, main)
    if twin is None:
        return
    there = case.look.measure_spot(twin)
    if there.contrast < 0.6 * near.contrast:
        case.say(
            pick(
                case.rng,
                "The form is the same there, but what marks the first place is missing.",
                "There the surface goes on undisturbed, unlike at the first place.",
            )
        )
    else:
        case.say(
            pick(
                case.rng,
                "The second place looks alike in parts, so the comparison does not settle it.",
                "That comparison leaves the question open.",
            )
        )


def _enhance_defect(case: Inspection, main: Box, near: Spot) -> None:
    region = round_outwards(expand(main, case.rng.uniform(1.6, 2.6), 140))
    for operator in rank_operators(case, near):
        call = ToolCall(tool="enhance", arguments={"operator": operator, "region": list(region)})
        observation, png = case.toolbox.observe(call)
        reading = _read_enhanced(case, observation, operator, main, region)
        if reading:
            case.say(word_enhancing(case.rng, operator, near))
            case.record(call, observation, png)
            case.say(reading)
            return


def _read_enhanced(case: Inspection, observation: Observation, operator: str, main: Box, region: Box) -> str:
    """Describe the place in the enhanced image; '' if it does not stand out there."""
    rng = case.rng
    if operator == "residual":
        peak = re.search(r"strongest at \((\d+), (\d+)\), ([\d.]+) times", observation.text)
        assert peak is not None
        x, y, times = int(peak.group(1)), int(peak.group(2)), peak.group(3)
        left, top, right, bottom = expand(main, 1.15, 16)
        if not (left <= x <= right and top <= y <= bottom) or float(times) < 3:
            return ""
        return pick(
            rng,
            f"The residual is strongest at ({x}, {y}), {times} times its median there, right on the spot in question.",
            f"Its residual peaks at ({x}, {y}), inside that area, at {times} times the median response.",
            f"The strongest residual of the region, {times} times the median, falls on it at ({x}, {y}).",
        )
    if operator == "canny":
        inside, around = case.look.measure_detail(main), case.look.measure_detail(region)
        share = re.search(r"cover ([\d.]+) %", observation.text)
        if inside < 1.4 * around or share is None:
            return ""
        return pick(
            rng,
            "The edge map draws it as a line of its own, denser there than in the rest of the region.",
            f"Edges cover {share.group(1)} % of the region, and they gather where the line is.",
            "In the edge map the edges gather at that place rather than spread over the region.",
        )
    spread = re.search(r"spread ([\d.]+) before, ([\d.]+) after", observation.text)
    if spread is None or float(spread.group(2)) < 1.15 * float(spread.group(1)):
        return ""
    before, after = spread.groups()
    return pick(
        rng,
        f"With the lightness spread raised from {before} to {after}, the area separates from its surroundings.",
        f"Equalised, the region spreads over {after} instead of {before} levels, and the area stays apart from the rest.",
        "After equalisation the area keeps a tone of its own.",
    )


def _mention_other_places(case: Inspection, boxes: list[Box]) -> None:
    if not boxes:
        return
    rng = case.rng
    places = join_clauses([f"one {where(rng, box).rstrip(',')}" for box in boxes[:3]])
    more = f", {phrasing.spell_number(len(boxes))} in all" if len(boxes) > 3 else ""
    case.say(
        pick(
            rng,
            f"It is not alone: there is {places}{more}.",
            f"Further places of the same kind follow: {places}{more}.",
            f"I find more of it, {places}{more}.",
        )
    )
