"""Shared parts of all policies: context, episode of one image, and answer.

Policies that run a model inspect through :mod:`cot_builder.inspection.episode`. No policy sees the ground truth, except
the oracle, which exists to check the metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cot_builder.inspection.episode import Episode, select_schemas
from cot_builder.inspection.names import category_name
from cot_builder.inspection.parsing import add_placeholder_thought
from cot_builder.inspection.rendering import Message, prompt
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import offered_tools
from cot_builder.params import Evaluate, Params
from cot_builder.storage.samples import SharedImages
from cot_builder.storage.workspace import Workspace
from eval.parse import ParsedAnswer, parse_agent, parse_by_rules
from schemas.geometry import UnitBox
from schemas.prediction import NotNegative, Transcript, TurnRecord
from schemas.sample import Sample

Answer = Literal["Yes", "No"]


class PolicyAnswer(BaseModel):
    """The answer of a policy for one image: the columns of a prediction that do not come from the ground truth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Answer | None
    boxes: list[UnitBox]
    defect_type: str | None
    parse: Literal["strict", "tolerant", "rules", "unparsed", "failed"]
    fault: str
    margin: float | None
    answer_before: Answer | None
    tools: list[str]
    observed: NotNegative
    input_tokens: NotNegative
    output_tokens: NotNegative
    seconds: Annotated[float, Field(ge=0)]
    cost_usd: Annotated[float, Field(ge=0)]
    transcript: str


@dataclass(frozen=True)
class EvalContext:
    """Everything that a policy needs to answer, without the ground truth."""

    params: Params
    workspace: Workspace
    images: SharedImages
    priors: Mapping[tuple[str, str], str]
    weights: str | None = None
    """Hash of the model's files; None if they are not on this machine."""
    verdict_only: bool = False
    """True for the control arm of SFT, which learned the verdict without a thought and is parsed without one."""

    @property
    def direct(self) -> bool:
        """True if the model gets a plain question instead of an inspection in the agent's grammar."""
        return self.params.evaluate.mode == "direct"

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools that the policy is offered."""
        return offered_tools(self.params.evaluate.mode)

    @cached_property
    def schemas(self) -> list[dict[str, Any]] | None:
        """Function schemas of :attr:`tools`; None if there are none."""
        return select_schemas(self.tools)

    @property
    def model(self) -> str:
        """Name of the model, or its folder."""
        folder = self.model_folder
        return str(folder) if folder else self.params.evaluate.model

    @property
    def model_folder(self) -> Path | None:
        """Folder of the weights that run in this process; None for a served model."""
        return None if self.params.evaluate.policy == "endpoint" else self.named_folder

    @property
    def named_folder(self) -> Path | None:
        """Local folder named like the model, if there is one. A served model may have one: vLLM uses paths as names."""
        settings = self.params.evaluate
        folder = self.workspace.root / settings.model
        return folder if settings.model and not settings.scripted and folder.is_dir() else None


def start_episode(context: EvalContext, sample: Sample) -> Episode:
    """Create the episode of one image, before the first turn.

    Raises:
        DamagedImageError: the image does not decode.
    """
    import cv2
    from PIL import Image

    pixels = context.images.pixels(sample)
    shown = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if context.direct:
        messages = direct_prompt(sample.category, sample.view)
    else:
        messages = prompt(sample.category, sample.view, tools=bool(context.tools))
    chat = [
        {
            **message,
            "content": [
                {"type": "image", "image": shown} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in messages
    ]
    rounds = turns_with_calls(context.params.evaluate)
    return Episode(chat, Toolbox(pixels, context.priors), context.tools, rounds)


def turns_with_calls(settings: Evaluate) -> int:
    """Maximum number of turns whose tool calls are executed."""
    if settings.mode in ("agent-no-tools", "direct"):
        return 0
    return 1 if settings.rounds == "two" else settings.max_calls


def direct_prompt(category: str, view: str) -> list[Message]:
    """A plain question for models that do not know this project: no grammar, no tools, room to think."""
    shown = f"{category_name(category)}, view {view}" if view != "default" else category_name(category)
    text = (
        f"The photograph shows: {shown}. It comes from quality control of manufactured parts and surfaces; some of "
        "them are in order and some have a defect, such as a scratch, a crack, a dent, a stain, contamination, or a "
        "part that is missing or deformed. Look at the image with care and say what you see. Then decide whether this "
        "one has a defect. End with a line that reads 'Answer: Yes' if it has one, or 'Answer: No' if it has none."
    )
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def to_answer(
    context: EvalContext,
    episode: Episode,
    *,
    seconds: float,
    margin: float | None = None,
    margin_before: float | None = None,
    stopped: str = "",
) -> PolicyAnswer:
    """Parse a finished inspection.

    Args:
        context: Context of the evaluation.
        episode: The finished inspection.
        seconds: Time that it took.
        margin: ``log p(Yes) - log p(No)`` at the verdict.
        margin_before: The same before any observation.
        stopped: Reason why the last turn was cut off, unless it was the length.
    """
    text = "\n".join(step.text for step in episode.steps)
    if context.direct:
        # A truncated free text may lack its conclusion. The strict grammar rejects truncated turns by itself.
        parsed = ParsedAnswer(None, [], None, "unparsed", "") if episode.cut else parse_by_rules(text)
    else:
        text_read = add_placeholder_thought(episode.completion) if context.verdict_only else episode.completion
        parsed = parse_agent(text_read, context.params.evaluate.reading == "exact")
    answer_before: Answer | None = None
    if margin_before is not None:
        answer_before = "Yes" if margin_before > 0 else "No"
    cut_reason = stopped or f"cut off at {context.params.evaluate.max_tokens} tokens"
    return PolicyAnswer(
        answer=parsed.answer,
        boxes=parsed.boxes,
        defect_type=parsed.defect_type,
        parse=parsed.parse,
        fault="; ".join(fault for fault in (parsed.fault, cut_reason if episode.cut else "") if fault),
        margin=margin,
        answer_before=answer_before,
        tools=episode.calls,
        observed=episode.observed,
        input_tokens=episode.input_tokens,
        output_tokens=episode.output_tokens,
        seconds=round(seconds, 4),
        cost_usd=episode.usd,
        transcript=_transcript(episode),
    )


def failed_answer(reason: str) -> PolicyAnswer:
    """An item without an answer, and the reason; the next run tries it again."""
    return PolicyAnswer(
        answer=None,
        boxes=[],
        defect_type=None,
        parse="failed",
        fault=reason,
        margin=None,
        answer_before=None,
        tools=[],
        observed=0,
        input_tokens=0,
        output_tokens=0,
        seconds=0.0,
        cost_usd=0.0,
        transcript=Transcript(turns=[]).model_dump_json(),
    )


def _transcript(episode: Episode) -> str:
    turns = []
    for step in episode.steps:
        texts = [observation.text for observation, _ in step.observations]
        images = [observation.image_sha256 for observation, _ in step.observations if observation.image_sha256]
        turns.append(
            TurnRecord(
                text=step.text,
                observation="\n".join(texts) if texts else None,
                images_sha256=images,
            )
        )
    return Transcript(turns=turns).model_dump_json()
