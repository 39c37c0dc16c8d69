"""Sentences of the offline teacher: those before a closer look, the same on sound and defective parts, and verdicts."""

from collections.abc import Mapping
from random import Random

from cot_builder.inspection.appearance import Spot
from cot_builder.inspection.names import choose_article
from cot_builder.teacher import phrasing
from cot_builder.teacher.offline.inspection import FAINT, Inspection
from cot_builder.teacher.phrasing import border, difference, join_clauses, pick, sentence, shape, size_word, where
from schemas.geometry import Box, area
from schemas.taxonomy import family


def word_plan(case: Inspection) -> str:
    """Say how the part will be inspected."""
    return pick(
        case.rng,
        "I go over it for marks, damage, deposits and parts out of place.",
        "What matters is surface, outline and completeness.",
        "I check surface and outline in turn.",
        "Before judging, I look for anything that breaks its regularity.",
        "I take outline first, then surface, then completeness.",
        "The question is whether any place departs from how it was made.",
        "I look for lines, spots, gaps and deposits.",
    )


def word_first_sight(case: Inspection, box: Box, spot: Spot, kind: str) -> str:
    """Say that a defect is visible at once."""
    rng = case.rng
    place, size = where(rng, box), size_word(box)
    facts = join_clauses([difference(rng, spot), shape(rng, spot, kind), border(rng, spot) if case.chance(0.6) else ""])
    return pick(
        rng,
        f"One {size} area {place} stands out at once: it {facts}.",
        f"A {size} area {place} catches the eye; it {facts}.",
        f"My attention goes to a {size} area {place}, which {facts}.",
        f"Already in the whole view a {size} area {place} is conspicuous: it {facts}.",
    )


def word_calm(case: Inspection, spots: Mapping[Box, Spot], suspect: Box | None) -> str:
    """Say that nothing on a sound part needs a closer look."""
    rng = case.rng
    if suspect is None:
        return pick(
            rng,
            "I go over it from edge to edge and find no place that looks damaged or soiled.",
            "Its outline is closed, and I see nothing on it that looks broken, deposited or missing.",
            "No line, spot or gap on it asks for a closer look.",
            "Row by row I find its form complete and its surface without a mark.",
            "Nothing on it departs from its own pattern as far as I can see at this scale.",
            "What varies in it follows its form; no single place looks harmed.",
        )
    spot = spots[suspect]
    facts = join_clauses([difference(rng, spot), border(rng, spot)])
    return pick(
        rng,
        f"The most conspicuous place, {where(rng, suspect)}, {facts}, which is part of how the object looks.",
        f"What stands out most lies {where(rng, suspect).rstrip(',')} and {facts}; I see no break, deposit or missing piece there.",
        f"If anything, the place {where(rng, suspect)} {facts}. Its outline is whole, and it belongs to the part.",
        f"The outline is closed and the place that varies most, {where(rng, suspect)}, {facts}, without any rupture.",
    )


def word_doubt(rng: Random, focus: Box, glance: Spot) -> str:
    """Say why a place is doubtful at first glance."""
    place = where(rng, focus)
    if area(focus) < 4000:
        return pick(
            rng,
            f"Something {size_word(focus)} {place} is too small to judge at this scale.",
            f"There may be a {size_word(focus)} irregularity {place}, but the whole view does not resolve it.",
            f"At full frame the spot {place} is only a few pixels of difference.",
            f"A {size_word(focus)} place {place} could be anything at this scale.",
        )
    if glance.visibility < FAINT:
        return pick(
            rng,
            f"The area {place} looks uneven, though the difference is faint.",
            f"I am not sure about the area {place}: it hardly stands apart from its surroundings.",
            f"Faintly, the area {place} {difference(rng, glance)}.",
            f"Most of it looks regular; the area {place} I would rather check than guess.",
        )
    return pick(
        rng,
        f"The area {place} {difference(rng, glance)}; what it is, I cannot say yet.",
        f"An area {place} {difference(rng, glance)}, which deserves a closer look.",
        f"I notice that the area {place} {difference(rng, glance)}.",
        f"One place makes me hesitate: an area {place} {difference(rng, glance)}.",
        f"A {size_word(focus)} area {place} {difference(rng, glance)}. That could be harmless or not.",
    )


def word_enhancing(rng: Random, operator: str, spot: Spot) -> str:
    """Say why an enhancement is needed, and which one."""
    why = (
        pick(rng, "The difference is slight.", "Plain pixels leave some doubt.", "By eye alone this stays uncertain.")
        if spot.visibility < FAINT
        else pick(
            rng,
            "I want a second look at it by other means.",
            "One more check on its extent.",
            "To be sure of its outline, one more look.",
        )
    )
    what = {
        "clahe": ("I equalise the local contrast there.", "Local equalisation should show how far it reaches."),
        "canny": ("I draw the edges of that region with Canny.", "An edge map tells whether it is a real line."),
        "residual": (
            "I take the high-frequency residual there.",
            "The residual keeps only what is finer than its surroundings.",
        ),
    }[operator]
    return f"{why} {pick(rng, *what)}"


def word_reasons(case: Inspection, main: Box, near: Spot, kind: str) -> str:
    """Say why the observations indicate a defect of this kind."""
    rng = case.rng
    recurrence, _ = case.look.find_recurrence(main)
    noun = pick(rng, *phrasing.NOUNS[kind])
    reasons = []
    if 0 < recurrence < 0.55:
        reasons.append(
            pick(
                rng, "nothing like it recurs elsewhere in the image", "no second place in the image repeats its pattern"
            )
        )
    if near.sharpness > 0.55 and near.visibility > FAINT:
        reasons.append(pick(rng, "its border is too crisp for a shadow", "it does not fade as shading would"))
    if near.roughness > 1.6:
        reasons.append(pick(rng, "it breaks the grain of the surface", "its grain differs from the rest"))
    elif near.roughness < 0.6:
        reasons.append(pick(rng, "the grain of the surface stops at it", "the surface's own grain is missing there"))
    if not reasons:
        reasons.append(
            pick(
                rng,
                "it does not follow the form of the part",
                "the rest of the part gives no reason for it",
                "the build of the part does not explain it",
            )
        )
    rng.shuffle(reasons)
    return pick(
        rng,
        sentence(f"what I see fits {noun}:", join_clauses(reasons[:2])),
        sentence(join_clauses(reasons[:2]) + f", which speaks for {noun}"),
        sentence(f"since {join_clauses(reasons[:2])}, I take it for {noun}"),
        sentence(f"this is how {noun} shows: {join_clauses(reasons[:2])}"),
    )


def word_defect_verdict(case: Inspection, boxes: list[Box], kind: str) -> str:
    """State the verdict on a part with a defect."""
    rng = case.rng
    group = family(kind)
    spot = f"at {list(boxes[0])}" if len(boxes) == 1 else f"in {phrasing.spell_number(len(boxes))} places"
    plain = kind.replace("_", " ")
    return pick(
        rng,
        f"The {case.name} has a defect {spot}, of type {plain}.",
        f"I judge it defective: {plain}, {spot}.",
        f"This is {choose_article(group)} {group} defect, {plain}, {spot}."
        if group not in (kind, "unspecified")
        else f"This is a defect {spot}.",
        f"So the part is defective; the damage lies {spot}."
        if group == "structural"
        else f"So there is a defect {spot}: {plain}.",
    )


def word_sound_verdict(case: Inspection) -> str:
    """State the verdict on a part without a defect."""
    return pick(
        case.rng,
        f"The {case.name} shows no defect.",
        "I find no defect in this image.",
        f"With nothing broken, added or missing, this {case.name} is sound.",
        f"My conclusion: no defect, the {case.name} is intact.",
        "There is no sign of a defect here.",
        f"This {case.name} passes: no defect.",
        "Nothing speaks for a defect.",
        f"The {case.name} is as it should be, without a defect.",
        "No defect, then.",
        f"I see no reason to reject this {case.name}; it is intact.",
        f"All in all the {case.name} is free of defects.",
        "I conclude that the part is intact.",
    )
