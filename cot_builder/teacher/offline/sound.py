"""The offline inspection of a part without a defect."""

import re
from functools import partial

from cot_builder.inspection.appearance import Spot
from cot_builder.inspection.proposals import propose
from cot_builder.teacher import phrasing
from cot_builder.teacher.offline.inspection import Inspection, round_outwards
from cot_builder.teacher.offline.looks import compare_with_twin, examine, rank_operators
from cot_builder.teacher.offline.wording import word_calm, word_enhancing, word_plan, word_sound_verdict
from cot_builder.teacher.phrasing import pick, where
from schemas.geometry import SCALE, Box, area, describe_position, expand
from schemas.trajectory import ToolCall, Trajectory, Verdict


def inspect_sound(case: Inspection) -> Trajectory:
    """Inspect a part without a defect."""
    look = case.look
    case.say(phrasing.scene(case.rng, case.name, look.scene()))
    if case.chance(0.3):
        case.say(word_plan(case))
    proposed = [proposal.box for proposal in propose(look.image, 5) if area(proposal.box) < 250_000]
    # Use the most conspicuous core of each proposal: a defect's box is as tight as that.
    candidates = [look.find_core(box) for box in proposed if look.is_on_object(box)]
    spots = {box: look.measure_downscaled(box) for box in candidates}
    suspect = max(spots, key=lambda box: spots[box].visibility, default=None)
    calm = suspect is None or spots[suspect].visibility < 2.0
    if suspect is None or (calm and case.chance(0.5)) or case.chance(0.2):
        case.say(word_calm(case, spots, suspect))
    else:
        _examine_suspect(case, suspect, spots[suspect])
    case.say(word_sound_verdict(case))
    return case.conclude(Verdict(answer="No"))


def _examine_suspect(case: Inspection, suspect: Box, glance: Spot) -> None:
    near = case.look.measure_spot(suspect)
    examine(case, suspect, [], glance, near, partial(_explain_suspect, case, suspect), _compare_normal, _enhance_normal)


def _compare_normal(case: Inspection, suspect: Box, near: Spot) -> None:
    twin = compare_with_twin(case, suspect)
    if twin is None:
        return
    if case.look.measure_spot(twin).contrast > 0.6 * near.contrast:
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


def _explain_suspect(case: Inspection, suspect: Box) -> str:
    """Explain why a conspicuous place is no defect, by the first measured reason that holds."""
    rng, spot = case.rng, case.look.measure_spot(suspect)
    recurrence, twin = case.look.find_recurrence(suspect)
    again = (
        where(rng, twin).rstrip(",") if twin and describe_position(twin) != describe_position(suspect) else "close by"
    )
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
    region = round_outwards(expand(suspect, rng.uniform(1.6, 2.6), 140))
    operator = rank_operators(case, near)[0]
    case.say(word_enhancing(rng, operator, near))
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
        elif case.look.measure_detail(around) > 0.04:
            case.say(f"Its peak at ({x}, {y}), {times} times the median, lies on an edge of the form.")
        else:
            case.say(f"It peaks at ({x}, {y}), {times} times the median, where I see texture and no mark.")
