"""The offline teacher: a deterministic inspector that calls the real tools and words what it measured.

Supervision tells it what the verdict must be and, on a defective part, where to look. Tone, colour, shape, border and
grain are measured, numbers come from observations; that a place is harmless, or a defect, it knows from supervision.
Until the first observation a sound part and a defective one are worded and examined by the same rules, from the same
measurements, so that the way an inspection begins does not tell how it ends.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random

import numpy as np
from pydantic import JsonValue

from cot_builder.inspection.appearance import Look, Spot
from cot_builder.inspection.names import article, category_name
from cot_builder.inspection.proposals import propose
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.teacher import phrasing
from cot_builder.teacher.phrasing import border, difference, listed, pick, sentence, shape, size_word, where
from schemas.geometry import SCALE, Box, area, expand, hull, intersection, iou, place_of, union_iou
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.taxonomy import family
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict

TEACHER = "offline"
PROMPT_VERSION = "offline-2"
MAX_BOXES = 6
OBVIOUS = 3.0
"""Visibility (contrast over noise) at first glance from which no tool is needed."""
FAINT = 2.2
SPRAWLING = 160_000
"""Area of a box, in square units, from which a crop would show little more than the whole."""


@dataclass
class Inspection:
    """One inspection under way: the turns so far, and the images the tools returned."""

    look: Look
    toolbox: Toolbox
    rng: Random
    name: str
    sample: Sample
    has_priors: bool
    max_calls: int
    turns: list[Turn] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    thought: list[str] = field(default_factory=list)
    """Sentences of the turn being written."""

    def say(self, *sentences: str) -> None:
        """Add sentences to the current thought."""
        self.thought += [re.sub(r",\s*([,.;:])", r"\1", text) for text in sentences if text]

    def call(self, call: ToolCall) -> Observation:
        """End the current thought with a call, and run it."""
        observation, png = self.toolbox.observe(call)
        return self.record(call, observation, png)

    def record(self, call: ToolCall, observation: Observation, png: bytes | None) -> Observation:
        """End the current thought with a call that has been run."""
        if observation.image_sha256 and png is not None:
            self.images[observation.image_sha256] = png
        self.turns.append(Turn(thought=" ".join(self.thought), call=call, observation=observation))
        self.thought = []
        return observation

    def conclude(self, verdict: Verdict) -> Trajectory:
        """End with the verdict."""
        self.turns.append(Turn(thought=" ".join(self.thought)))
        return Trajectory(turns=self.turns, verdict=verdict)

    @property
    def calls_left(self) -> int:
        return self.max_calls - len(self.turns)

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.rng.random() < probability


def draft_offline(
    image: np.ndarray,
    sample: Sample,
    supervision: Supervision,
    priors: Mapping[tuple[str, str], str],
    *,
    seed: int,
    candidate: int,
    max_calls: int,
) -> tuple[Trajectory, dict[str, bytes]]:
    """Draft one trajectory.

    Args:
        image: uint8 (height, width, 3) BGR.
        sample: The sample.
        supervision: Its truth, for the verdict and the place only.
        priors: Normalcy text by (category, view).
        seed: Of the run; with the sample id and ``candidate`` it fixes every choice.
        candidate: Number of the draft for this sample.
        max_calls: Most tool calls.

    Returns:
        The trajectory, and the PNG bytes of its observation images by sha256.
    """
    key = hashlib.sha256(f"{seed}/{sample.sample_id}/{candidate}".encode()).digest()
    look = Look(image)
    case = Inspection(
        look,
        Toolbox(image, priors),
        Random(int.from_bytes(key[:8], "big")),
        category_name(sample.category),
        sample,
        bool(priors),
        max_calls,
    )
    if supervision.label == "anomalous":
        boxes = verdict_boxes(supervision.boxes) or [(0, 0, SCALE, SCALE)]
        trajectory = _find_defect(case, boxes, supervision.defect_type or "unspecified")
    else:
        trajectory = _clear_part(case)
    return trajectory, case.images


def verdict_boxes(boxes: list[Box]) -> list[Box]:
    """The boxes an inspector would name: at most six, near ones joined as long as they still cover the truth well."""
    named = list(boxes)
    while len(named) > 1:
        pairs = [(i, j) for i in range(len(named)) for j in range(i + 1, len(named))] if len(named) <= 40 else []
        if not pairs:
            named = sorted(named, key=area, reverse=True)[:40]
            continue
        i, j = min(
            pairs,
            key=lambda pair: area(hull([named[pair[0]], named[pair[1]]])) - area(named[pair[0]]) - area(named[pair[1]]),
        )
        joined = [box for k, box in enumerate(named) if k not in (i, j)] + [hull([named[i], named[j]])]
        close = iou(expand(named[i], 1.3, 30), expand(named[j], 1.3, 30)) > 0
        if len(named) <= MAX_BOXES and not (close and union_iou(joined, boxes) >= 0.7):
            break
        if len(named) > MAX_BOXES and union_iou(joined, boxes) < 0.6:
            named = sorted(boxes, key=area, reverse=True)[:MAX_BOXES]
            break
        named = joined
    return sorted(named, key=area, reverse=True)


# --- a part with a defect -------------------------------------------------------------------------


def _find_defect(case: Inspection, boxes: list[Box], kind: str) -> Trajectory:
    look, main = case.look, boxes[0]
    glance, near = look.at_first_glance(main), look.spot(main)
    case.say(phrasing.scene(case.rng, case.name, look.scene()))
    if case.chance(0.3):
        case.say(_plan(case))
    if area(main) > SPRAWLING or (glance.visibility > OBVIOUS and case.chance(0.4)):
        case.say(_first_sight(case, main, glance, kind))
    else:
        read = partial(_read_defect, case, near, kind)
        _examine(case, main, boxes, glance, near, read, _compare_defect, _enhance_defect)
    _others(case, boxes[1:])
    case.say(_reasoning(case, main, near, kind), _verdict_yes(case, boxes, kind))
    return case.conclude(Verdict(answer="Yes", boxes=boxes, defect_type=kind))


def _examine(
    case: Inspection,
    focus: Box,
    truth: list[Box],
    glance: Spot,
    near: Spot,
    read: Callable[[], str],
    compare: Callable[[Inspection, Box, Spot], None],
    enhance: Callable[[Inspection, Box, Spot], None],
) -> None:
    """Look into a doubtful place: the one set of rules for sound and defective parts.

    They differ in ``read``, ``compare`` and ``enhance`` alone, which word what the tools returned.
    """
    _approach(case, focus, truth)
    _crop(case, focus, glance)
    case.say(read())
    if case.calls_left and case.chance(0.15):
        compare(case, focus, near)
    if (near.visibility < FAINT or case.chance(0.25)) and case.calls_left:
        enhance(case, focus, near)
    if case.chance(_measuring(near)) and case.calls_left:
        _measure(case, focus, near)


def _approach(case: Inspection, focus: Box, truth: list[Box]) -> None:
    """What may come before the focus is enlarged, whatever it will turn out to be."""
    if case.chance(0.12) and case.calls_left > 2:
        _look_around_first(case, focus, truth)
    if case.has_priors and case.chance(0.18) and case.calls_left > 1:
        _consult_prior(case, focus)


def _measuring(spot: Spot) -> float:
    """How likely a place is measured: a line rather than a patch."""
    return 0.4 if spot.elongation > 2.4 else 0.12


def _plan(case: Inspection) -> str:
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


def _first_sight(case: Inspection, box: Box, spot: Spot, kind: str) -> str:
    rng = case.rng
    place, size = where(rng, box), size_word(box)
    facts = listed([difference(rng, spot), shape(rng, spot, kind), border(rng, spot) if case.chance(0.6) else ""])
    return pick(
        rng,
        f"One {size} area {place} stands out at once: it {facts}.",
        f"A {size} area {place} catches the eye; it {facts}.",
        f"My attention goes to a {size} area {place}, which {facts}.",
        f"Already in the whole view a {size} area {place} is conspicuous: it {facts}.",
    )


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
    facts = difference(rng, case.look.spot(proposal.box))
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
            f"I look up the prior for {article(case.name)} {case.name} before judging its build.",
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
    """Say what is doubtful about the focus, and enlarge it."""
    rng = case.rng
    region = _grid(expand(focus, rng.uniform(1.4, 2.4), 110))
    case.say(
        _doubt(rng, focus, glance),
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


def _doubt(rng: Random, focus: Box, glance: Spot) -> str:
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


def _read_defect(case: Inspection, near: Spot, kind: str) -> str:
    rng = case.rng
    scale = _scale(case)
    facts = listed([difference(rng, near), shape(rng, near, kind), border(rng, near)])
    return pick(
        rng,
        f"Enlarged{scale}, the area {facts}.",
        f"In the crop{scale} the place itself {facts}.",
        f"The enlarged view{scale} shows an area that {facts}.",
        f"Seen close{scale}, it {facts}.",
    )


def _scale(case: Inspection) -> str:
    """The zoom of the last crop, sometimes, where it enlarged anything."""
    observation = case.turns[-1].observation
    zoom = re.search(r"shown at ([\d.]+)x", observation.text) if observation else None
    return f" at {zoom.group(1)}x" if zoom and zoom.group(1) != "1.0" and case.chance(0.4) else ""


def _compare(case: Inspection, focus: Box) -> Box | None:
    """Enlarge the place that is most like the focus; None where there is none."""
    recurrence, twin = case.look.recurrence(focus)
    if twin is None or recurrence < 0.5:
        return None
    region = _grid(expand(twin, 1.2, 110))
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


def _compare_defect(case: Inspection, main: Box, near: Spot) -> None:
    twin = _compare(case, main)
    if twin is None:
        return
    there = case.look.spot(twin)
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
    region = _grid(expand(main, case.rng.uniform(1.6, 2.6), 140))
    for operator in _operators(case, near):
        call = ToolCall(tool="enhance", arguments={"operator": operator, "region": list(region)})
        observation, png = case.toolbox.observe(call)
        reading = _read_enhanced(case, observation, operator, main, region)
        if reading:
            case.say(_ask_enhanced(case.rng, operator, near))
            case.record(call, observation, png)
            case.say(reading)
            return


def _operators(case: Inspection, spot: Spot) -> list[str]:
    """Enhancements worth trying on a place, the best first: edges for a line, the residual for what is faint."""
    operators = (
        ["residual", "clahe"] if case.look.scene().fills_frame or spot.visibility < FAINT else ["clahe", "residual"]
    )
    return ["canny", *operators] if spot.elongation > 2.4 else operators


def _ask_enhanced(rng: Random, operator: str, spot: Spot) -> str:
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


def _read_enhanced(case: Inspection, observation: Observation, operator: str, main: Box, region: Box) -> str:
    """What the map shows of the place, or '' where it shows nothing of it."""
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
        inside, around = case.look.detail(main), case.look.detail(region)
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


def _others(case: Inspection, boxes: list[Box]) -> None:
    if not boxes:
        return
    rng = case.rng
    places = listed([f"one {where(rng, box).rstrip(',')}" for box in boxes[:3]])
    more = f", {phrasing.count(len(boxes))} in all" if len(boxes) > 3 else ""
    case.say(
        pick(
            rng,
            f"It is not alone: there is {places}{more}.",
            f"Further places of the same kind follow: {places}{more}.",
            f"I find more of it, {places}{more}.",
        )
    )


def _reasoning(case: Inspection, main: Box, near: Spot, kind: str) -> str:
    rng = case.rng
    recurrence, _ = case.look.recurrence(main)
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
        sentence(f"what I see fits {noun}:", listed(reasons[:2])),
        sentence(listed(reasons[:2]) + f", which speaks for {noun}"),
        sentence(f"since {listed(reasons[:2])}, I take it for {noun}"),
        sentence(f"this is how {noun} shows: {listed(reasons[:2])}"),
    )


def _verdict_yes(case: Inspection, boxes: list[Box], kind: str) -> str:
    rng = case.rng
    group = family(kind)
    spot = f"at {list(boxes[0])}" if len(boxes) == 1 else f"in {phrasing.count(len(boxes))} places"
    plain = kind.replace("_", " ")
    return pick(
        rng,
        f"The {case.name} has a defect {spot}, of type {plain}.",
        f"I judge it defective: {plain}, {spot}.",
        f"This is {article(group)} {group} defect, {plain}, {spot}."
        if group not in (kind, "unspecified")
        else f"This is a defect {spot}.",
        f"So the part is defective; the damage lies {spot}."
        if group == "structural"
        else f"So there is a defect {spot}: {plain}.",
    )


# --- a part without a defect ----------------------------------------------------------------------


def _clear_part(case: Inspection) -> Trajectory:
    look = case.look
    case.say(phrasing.scene(case.rng, case.name, look.scene()))
    if case.chance(0.3):
        case.say(_plan(case))
    proposed = [proposal.box for proposal in propose(look.image, 5) if area(proposal.box) < 250_000]
    # What stands out within a proposal is what the eye stops at, as it would at a defect.
    candidates = [look.core(box) for box in proposed if look.on_object(box)]
    spots = {box: look.at_first_glance(box) for box in candidates}
    suspect = max(spots, key=lambda box: spots[box].visibility, default=None)
    calm = suspect is None or spots[suspect].visibility < 2.0
    if suspect is None or (calm and case.chance(0.5)) or case.chance(0.2):
        case.say(_calm(case, spots, suspect))
    else:
        _settle_doubt(case, suspect, spots[suspect])
    case.say(_verdict_no(case))
    return case.conclude(Verdict(answer="No"))


def _calm(case: Inspection, spots: Mapping[Box, Spot], suspect: Box | None) -> str:
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
    facts = listed([difference(rng, spot), border(rng, spot)])
    return pick(
        rng,
        f"The most conspicuous place, {where(rng, suspect)}, {facts}, which is part of how the object looks.",
        f"What stands out most lies {where(rng, suspect).rstrip(',')} and {facts}; I see no break, deposit or missing piece there.",
        f"If anything, the place {where(rng, suspect)} {facts}. Its outline is whole, and it belongs to the part.",
        f"The outline is closed and the place that varies most, {where(rng, suspect)}, {facts}, without any rupture.",
    )


def _settle_doubt(case: Inspection, suspect: Box, glance: Spot) -> None:
    near = case.look.spot(suspect)
    _examine(case, suspect, [], glance, near, partial(_explanation, case, suspect), _compare_normal, _enhance_normal)


def _compare_normal(case: Inspection, suspect: Box, near: Spot) -> None:
    twin = _compare(case, suspect)
    if twin is None:
        return
    if case.look.spot(twin).contrast > 0.6 * near.contrast:
        case.say(
            pick(
                case.rng,
                "The two places stand out in the same way, so it is the part's own pattern.",
                "Both crops show a like form; what recurs like this was made so.",
            )
        )
    else:
        case.say(
            pick(
                case.rng,
                "The second place is quieter, but in form the two agree.",
                "It stands out less there; the form is alike all the same.",
            )
        )


def _explanation(case: Inspection, suspect: Box) -> str:
    """Why a conspicuous place is nothing: the first of the measured reasons that holds."""
    rng, spot = case.rng, case.look.spot(suspect)
    recurrence, twin = case.look.recurrence(suspect)
    again = where(rng, twin).rstrip(",") if twin and place_of(twin) != place_of(suspect) else "close by"
    place_words = where(rng, suspect).rstrip(",")
    if spot.sharpness < 0.22 and spot.tone == "lighter":
        return pick(
            rng,
            "Enlarged, the light area fades out gradually; that is how a reflection behaves, not a mark on the surface.",
            "Close up, it is a soft bright gradient without any edge, as lighting makes it.",
            "The enlarged view shows light thinning out towards its rim: a reflection.",
            f"Enlarged, the place {place_words} is only brighter, and ever less so outwards; light does that, damage does not.",
            "Seen close, no line bounds the bright area; it is a highlight that follows the form.",
            f"The bright area {place_words} turns out soft-edged in the crop, so it is light on the surface and not in it.",
        )
    if spot.sharpness < 0.22 and spot.tone == "darker":
        return pick(
            rng,
            "Enlarged, the dark area has no edge of its own and fades out; it is shading.",
            "Close up, darkness grows step by step with the form of the part, as a shadow does.",
            "The enlarged view shows a gradual shade, with the surface going on beneath it.",
            f"The dark area {place_words} has no rim in the crop; the form turns away from the light there.",
            "Seen close, the surface runs on through the dark part without a step, so this is shade.",
            f"Enlarged, the tone {place_words} sinks evenly instead of breaking off: a shadow, not a mark.",
        )
    if twin is not None and recurrence > 0.75:
        return pick(
            rng,
            f"Enlarged, it is a regular form, and the same form recurs {again}.",
            f"The close-up shows an orderly form which comes back {again}, so it belongs to the design.",
            f"It turns out to be a repeated feature: its like lies {again}.",
        )
    if 0.7 < spot.roughness < 1.4:
        return pick(
            rng,
            "In the enlarged view the grain inside it is that of its surroundings; only the tone varies.",
            "Close up, the surface carries on through it with the same grain, neither broken nor covered.",
            "Enlarged, its texture is no rougher and no smoother than next to it, so nothing was removed or added.",
            f"The crop shows the same grain {place_words} as beside it; a mark would have changed it.",
            "Seen close, tone varies there but the grain does not, and nothing interrupts it.",
        )
    return pick(
        rng,
        "Enlarged, its outline is clean and follows the form of the part; I see no chip, line or deposit.",
        "The close-up shows a feature with a whole outline, without cracks, loose matter or missing material.",
        "Close up, it is a feature of the part itself: its border is unbroken and nothing lies on it.",
        f"The crop resolves the place {place_words} into a clear form with an even rim; nothing is chipped or stuck to it.",
        "Seen close, form and rim are regular, as made, and I find no loose matter and no gap.",
    )


def _enhance_normal(case: Inspection, suspect: Box, near: Spot) -> None:
    rng = case.rng
    region = _grid(expand(suspect, rng.uniform(1.6, 2.6), 140))
    operator = _operators(case, near)[0]
    case.say(_ask_enhanced(rng, operator, near))
    observation = case.call(ToolCall(tool="enhance", arguments={"operator": operator, "region": list(region)}))
    if operator == "clahe":
        case.say(
            pick(
                rng,
                "Equalised, the region shows its structure more strongly, but I find no mark that breaks it.",
                "With contrast equalised, I still find no line, spot or gap in it.",
            )
        )
    elif operator == "canny":
        case.say(
            pick(
                rng,
                "The edge map follows the form of the part; I see no line in it that stands by itself.",
                "In the edge map I find outlines, and none that ends in the middle of the surface.",
            )
        )
    else:
        peak = re.search(r"strongest at \((\d+), (\d+)\), ([\d.]+) times", observation.text)
        assert peak is not None
        x, y, times = int(peak.group(1)), int(peak.group(2)), peak.group(3)
        around = (max(x - 20, 0), max(y - 20, 0), min(x + 20, SCALE), min(y + 20, SCALE))
        if float(times) < 4:
            case.say(f"The residual stays even, at most {times} times its median, so there is no fine mark.")
        elif case.look.detail(around) > 0.04:
            case.say(f"Its peak at ({x}, {y}), {times} times the median, lies on an edge of the form.")
        else:
            case.say(f"It peaks at ({x}, {y}), {times} times the median, where I see texture and no mark.")


def _verdict_no(case: Inspection) -> str:
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


def _grid(box: Box) -> Box:
    """The box on a grid of ten, outwards: people do not name regions to the unit."""
    x1, y1, x2, y2 = box
    return x1 // 10 * 10, y1 // 10 * 10, min(-(-x2 // 10) * 10, SCALE), min(-(-y2 // 10) * 10, SCALE)
