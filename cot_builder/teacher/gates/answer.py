"""Gates on form and verdict: grammar, verdict, location, defect_type."""

import re

from cot_builder.inspection.rendering import ANSWER_GRAMMAR, render_final_turn
from cot_builder.inspection.toolbox import make_chat_safe
from cot_builder.teacher.gates.gate import Case, gate
from schemas.geometry import union_iou
from schemas.taxonomy import leaves


@gate
def grammar(case: Case) -> list[str]:
    """Thoughts have no tags or control characters and end like a sentence, calls have no control tokens, and the final
    answer parses.
    """
    problems = []
    for number, turn in enumerate(case.trajectory.turns, 1):
        if re.search(r"[<>]", turn.thought):
            problems.append(f"thought {number} holds a tag")
        if re.search(r"[\x00-\x1f]", turn.thought):
            problems.append(f"thought {number} holds a control character")
        if not turn.thought.rstrip().endswith((".", "!", "?")):
            problems.append(f"thought {number} does not end as a sentence")
        if turn.call and (text := turn.call.model_dump_json()) != make_chat_safe(text):
            problems.append(f"call {number} holds a control token")
    if not ANSWER_GRAMMAR.fullmatch(render_final_turn(case.trajectory)):
        problems.append("the last turn is not <think>, then location and type with Yes, then <answer>")
    return problems


@gate
def verdict(case: Case) -> list[str]:
    """The answer equals the ground truth."""
    right = "Yes" if case.supervision.label == "anomalous" else "No"
    given = case.trajectory.verdict.answer
    return [] if given == right else [f"answers {given}, right is {right}"]


@gate
def location(case: Case) -> list[str]:
    """The boxes of a Yes overlap the true boxes: IoU of the covered regions of at least ``draft.min_iou``."""
    if case.trajectory.verdict.answer == "No" or not case.supervision.boxes:
        return []
    overlap = union_iou(case.trajectory.verdict.boxes, case.supervision.boxes)
    least = case.params.min_iou
    return [] if overlap >= least else [f"IoU with the truth is {overlap:.2f}, at least {least} is asked"]


@gate
def defect_type(case: Case) -> list[str]:
    """The type of a Yes is a leaf of the taxonomy and equals the true type."""
    given = case.trajectory.verdict.defect_type
    if given is None:
        return []
    if given not in leaves():
        return [f"type {given!r} is not in the taxonomy"]
    right = case.supervision.defect_type
    return [] if right in (None, given) else [f"type is {given}, right is {right}"]
