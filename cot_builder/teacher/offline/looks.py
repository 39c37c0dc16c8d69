"""The rules by which the offline teacher examines places, the same on sound and on defective parts."""

import re
from collections.abc import Callable

from pydantic import JsonValue

from cot_builder.inspection.appearance import Spot
from cot_builder.inspection.names import choose_article
from cot_builder.inspection.proposals import propose
from cot_builder.teacher.offline.inspection import FAINT, Inspection, round_outwards
from cot_builder.teacher.offline.wording import word_doubt
from cot_builder.teacher.phrasing import difference, pick, where
from schemas.geometry import Box, area, expand, intersection
from schemas.trajectory import ToolCall


def examine(
    case: Inspection,
    focus: Box,
    truth: list[Box],
    glance: Spot,
    near: Spot,
    read: Callable[[], str],
    compare: Callable[[Inspection, Box, Spot], None],
    enhance: Callable[[Inspection, Box, Spot], None],
) -> None:
    """Examine a doubtful place, by the same rules on sound and on defective parts.

    The two differ only in ``read``, ``compare`` and ``enhance``, which describe the tool results.
    """
    _approach(case, focus, truth)
    _crop(case, focus, glance)
    case.say(read())
    if case.calls_left and case.chance(0.15):
        compare(case, focus, near)
    if (near.visibility < FAINT or case.chance(0.25)) and case.calls_left:
        enhance(case, focus, near)
    if case.chance(_measuring_probability(near)) and case.calls_left:
        _measure(case, focus, near)


def _approach(case: Inspection, focus: Box, truth: list[Box]) -> None:
    """Take steps that may come before the focus is enlarged, independent of the verdict."""
    if case.chance(0.12) and case.calls_left > 2:
        _look_around_first(case, focus, truth)
    if case.has_priors and case.chance(0.18) and case.calls_left > 1:
        _consult_prior(case, focus)


def _measuring_probability(spot: Spot) -> float:
    """Return the probability of measuring a place: higher for a line than for a patch."""
    return 0.4 if spot.elongation > 2.4 else 0.12


def _look_around_first(case: Inspection, focus: Box, truth: list[Box]) -> None:
    proposal = propose(case.look.image, 1)[0]
    if any(intersection(expand(box, 1.2), proposal.box) for box in [focus, *truth]) or area(proposal.box) > 300_000:
        return
    rng = case.rng
    case.say(
        pick(
            rng,
            "I begin with whatever part of it is most conspicuous and have that enlarged.",
            "Nothing is certain at this scale, so I let the crop tool pick the most conspicuous region first.",
            "I start with a crop of the most prominent region.",
        )
    )
    case.call(ToolCall(tool="crop", arguments={}))
    facts = difference(rng, case.look.measure_spot(proposal.box))
    case.say(
        pick(
            rng,
            f"The enlarged region {where(rng, proposal.box)} {facts}, but I find no damage in it; I look further.",
            f"That region {facts}; this alone is no fault. The search goes on elsewhere.",
            f"Enlarged, the region {where(rng, proposal.box)} {facts}. It holds nothing that I can call wrong, so I move on.",
        )
    )


def _consult_prior(case: Inspection, box: Box) -> None:
    rng = case.rng
    case.say(
        pick(
            rng,
            f"To judge the form {where(rng, box)} I need to know how a sound {case.name} looks, so I ask for the prior.",
            f"Whether the area {where(rng, box)} is by design is not obvious; the normalcy prior should tell.",
            f"I look up the prior for {choose_article(case.name)} {case.name} before judging its build.",
        )
    )
    case.call(ToolCall(tool="prior", arguments={"category": case.sample.category, "view": case.sample.view}))
    case.say(_read_prior(case))


def _read_prior(case: Inspection) -> str:
    observation = case.turns[-1].observation
    assert observation is not None
    body = observation.text.partition(": ")[2]
    if f"(none for {case.sample.category}" in observation.text.partition(": ")[0]:
        return pick(
            case.rng,
            "That prior is for another category, so it settles nothing here; I rely on what I see.",
            "There is only a prior for a related category, which I do not lean on.",
        )
    quotable = [part.strip() for part in re.split(r"(?<=[.])\s+", body) if 4 <= len(part.split()) <= 24]
    quotable = [part for part in quotable if not re.search(r"[<>\[\]\"]|defect-free images?", part)]
    if not quotable:
        return pick(case.rng, "The prior gives me the picture of a sound part.", "That prior is what I compare with.")
    quote = case.rng.choice(quotable).rstrip(".")
    return pick(
        case.rng,
        f'The prior says: "{quote}".',
        f'From the prior I keep this: "{quote}".',
        f'According to the normalcy prior, "{quote}".',
    )


def _crop(case: Inspection, focus: Box, glance: Spot) -> None:
    """Say what is doubtful about the focus, and crop it."""
    rng = case.rng
    region = round_outwards(expand(focus, rng.uniform(1.4, 2.4), 110))
    case.say(
        word_doubt(rng, focus, glance),
        pick(
            rng,
            "I enlarge it.",
            "A crop of that region should settle what it is.",
            f"I take a crop of {list(region)}.",
            "I zoom in before deciding.",
            "Let me see it enlarged.",
            "A close-up will tell.",
        ),
    )
    case.call(ToolCall(tool="crop", arguments={"region": list(region)}))


def word_scale(case: Inspection) -> str:
    """Return, at random, a phrase with the zoom of the last crop; '' if it did not enlarge."""
    observation = case.turns[-1].observation
    zoom = re.search(r"shown at ([\d.]+)x", observation.text) if observation else None
    return f" at {zoom.group(1)}x" if zoom and zoom.group(1) != "1.0" and case.chance(0.4) else ""


def compare_with_twin(case: Inspection, focus: Box) -> Box | None:
    """Crop the place most similar to the focus, and return its box; None if there is no similar place."""
    recurrence, twin = case.look.find_recurrence(focus)
    if twin is None or recurrence < 0.5:
        return None
    region = round_outwards(expand(twin, 1.2, 110))
    if any(turn.call and turn.call.arguments.get("region") == list(region) for turn in case.turns):
        return None
    case.say(
        pick(
            case.rng,
            f"To compare, I enlarge a similar place {where(case.rng, twin).rstrip(',')} as well.",
            f"I compare it with a place much like it {where(case.rng, twin).rstrip(',')}, enlarged as well.",
        )
    )
    case.call(ToolCall(tool="crop", arguments={"region": list(region)}))
    return twin


def rank_operators(case: Inspection, spot: Spot) -> list[str]:
    """Rank the enhancements for a place, best first: edges for a line, the residual for a faint place."""
    operators = (
        ["residual", "clahe"] if case.look.scene().fills_frame or spot.visibility < FAINT else ["clahe", "residual"]
    )
    return ["canny", *operators] if spot.elongation > 2.4 else operators


def _measure(case: Inspection, main: Box, near: Spot) -> None:
    rng = case.rng
    x1, y1, x2, y2 = main
    rising = near.angle < 90
    points: list[JsonValue]
    if near.elongation > 2.4 and near.direction not in ("horizontal", "vertical"):
        points = [[x1, y2], [x2, y1]] if rising else [[x1, y1], [x2, y2]]
        span = "from end to end"
    elif (x2 - x1) * case.sample.width >= (y2 - y1) * case.sample.height:
        points, span = [[x1, (y1 + y2) // 2], [x2, (y1 + y2) // 2]], "across its width"
    else:
        points, span = [[(x1 + x2) // 2, y1], [(x1 + x2) // 2, y2]], "over its height"
    case.say(
        pick(
            rng,
            f"I measure it {span}.",
            f"How large is it? I measure {span}.",
            f"A measurement {span} gives its extent.",
        )
    )
    observation = case.call(ToolCall(tool="measure", arguments={"points": points}))
    length = re.search(r"P1-P2: ([\d.]+) px", observation.text)
    levels = re.search(r"grey levels along it (\d+) to (\d+)", observation.text)
    assert length is not None and levels is not None
    low, high = int(levels.group(1)), int(levels.group(2))
    swing = f", and the grey levels on the way run from {low} to {high}" if high - low >= 25 else ""
    case.say(
        pick(
            rng,
            f"It extends over {length.group(1)} px{swing}.",
            f"The measured length is {length.group(1)} px{swing}.",
            f"That makes {length.group(1)} px {span}{swing}.",
        )
    )
