"""Gates on the whole transcript: image_count, repetition."""

from cot_builder.inspection.rendering import render_messages
from cot_builder.inspection.tools import TOOLS
from cot_builder.teacher.gates.gate import Case, gate


@gate
def image_count(case: Case) -> list[str]:
    """The rendered chat shows the query image and every observation image once, and every call of a tool
    that returns an image has an observation image.
    """
    chat = render_messages(case.trajectory, case.sample.category, case.sample.view)
    shown = sum(part["type"] == "image" for message in chat for part in message["content"])
    turns = case.trajectory.turns[:-1]
    shows = {tool.name for tool in TOOLS.values() if tool.returns_image}
    stored = sum(turn.observation is not None and turn.observation.image_sha256 is not None for turn in turns)
    due = sum(turn.call is not None and turn.call.tool in shows for turn in turns)
    problems = [f"the chat shows {shown} images for 1 + {stored} stored"] if shown != 1 + stored else []
    return [*problems, f"{due} calls return an image, {stored} are stored"] if due != stored else problems


@gate
def repetition(case: Case) -> list[str]:
    """No thought and no call is repeated."""
    thoughts = [turn.thought for turn in case.trajectory.turns]
    calls = [call.model_dump_json() for call in case.trajectory.calls]
    problems = ["a thought is repeated"] if len(set(thoughts)) < len(thoughts) else []
    return [*problems, "a call is repeated"] if len(set(calls)) < len(calls) else problems
