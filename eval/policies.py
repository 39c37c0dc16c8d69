"""Policies: what can be asked about an image, and what each of them said.

All but the scripted ones inspect through :mod:`cot_builder.inspection.episode`; none is given the truth, but the
oracle, which is no policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cot_builder.inspection.episode import Episode, schemas_of
from cot_builder.inspection.names import category_name
from cot_builder.inspection.parsing import behind_a_thought
from cot_builder.inspection.rendering import Message, prompt
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import offered_tools
from cot_builder.params import Evaluate, Params
from cot_builder.storage.samples import SharedImages
from cot_builder.storage.workspace import Workspace
from eval.parse import Parsed, parse_by_rules, parse_strict
from schemas.geometry import UnitBox
from schemas.prediction import NotNegative, Spoken, Transcript
from schemas.sample import Sample

Answer = Literal["Yes", "No"]


class Said(BaseModel):
    """What a policy said of one image: the columns of a prediction that are not the truth's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Answer | None
    boxes: list[UnitBox]
    defect_type: str | None
    parse: Literal["strict", "rules", "unparsed", "failed"]
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
class Exam:
    """What a policy is examined with: everything but the truth."""

    params: Params
    workspace: Workspace
    images: SharedImages
    priors: Mapping[tuple[str, str], str]
    weights: str | None = None
    """Hash of the model's files, where they are here."""
    verdict_alone: bool = False
    """Whether the model learned to write no thought: the control arm of SFT, whose verdict is read without one."""

    @property
    def direct(self) -> bool:
        """Whether a plain question is asked, instead of an inspection with its grammar."""
        return self.params.evaluate.mode == "direct"

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools the policy is told of."""
        return offered_tools(self.params.evaluate.mode)

    @cached_property
    def schemas(self) -> list[dict[str, Any]] | None:
        """Of these tools."""
        return schemas_of(self.tools)

    @property
    def model(self) -> str:
        """Name of the model, or the folder it lies in."""
        folder = self.model_folder
        return str(folder) if folder else self.params.evaluate.model

    @property
    def model_folder(self) -> Path | None:
        """Where the weights that run here lie; None for a model that is elsewhere."""
        return None if self.params.evaluate.policy == "endpoint" else self.named_folder

    @property
    def named_folder(self) -> Path | None:
        """The folder of the model's name. A server's model may have one too: vLLM serves a folder under its path."""
        settings = self.params.evaluate
        folder = self.workspace.root / settings.model
        return folder if settings.model and not settings.scripted and folder.is_dir() else None


def begin(exam: Exam, sample: Sample) -> Episode:
    """An inspection that nothing was said in yet.

    Raises:
        DamagedImageError: the image does not decode.
    """
    import cv2
    from PIL import Image

    pixels = exam.images.pixels(sample)
    shown = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if exam.direct:
        asked = direct_prompt(sample.category, sample.view)
    else:
        asked = prompt(sample.category, sample.view, tools=bool(exam.tools))
    filled = [
        {
            **message,
            "content": [
                {"type": "image", "image": shown} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in asked
    ]
    rounds = turns_with_calls(exam.params.evaluate)
    return Episode(filled, Toolbox(pixels, exam.priors), exam.tools, rounds)


def turns_with_calls(settings: Evaluate) -> int:
    """How many turns with calls are answered, at most."""
    if settings.mode in ("agent-no-tools", "direct"):
        return 0
    return 1 if settings.rounds == "two" else settings.max_calls


def direct_prompt(category: str, view: str) -> list[Message]:
    """A plain question for models that know nothing of this project: no grammar, no tools, room to think."""
    shown = f"{category_name(category)}, view {view}" if view != "default" else category_name(category)
    text = (
        f"The photograph shows: {shown}. It comes from quality control of manufactured parts and surfaces; some of "
        "them are in order and some have a defect, such as a scratch, a crack, a dent, a stain, contamination, or a "
        "part that is missing or deformed. Look at the image with care and say what you see. Then decide whether this "
        "one has a defect. End with a line that reads 'Answer: Yes' if it has one, or 'Answer: No' if it has none."
    )
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def told(
    exam: Exam,
    episode: Episode,
    *,
    seconds: float,
    margin: float | None = None,
    before: float | None = None,
    stopped: str = "",
) -> Said:
    """An inspection that has ended, read.

    Args:
        exam: What it was part of.
        episode: The inspection.
        seconds: It took.
        margin: ``log p(Yes) - log p(No)`` at the verdict.
        before: The same before any observation.
        stopped: Why the last turn was cut off, where it was not by its length.
    """
    text = "\n".join(step.text for step in episode.steps)
    if exam.direct:
        # What was cut off had not come to its conclusion. The grammar, for its part, takes nothing that ends too soon.
        parsed = Parsed(None, [], None, "unparsed", "") if episode.cut else parse_by_rules(text)
    else:
        said = behind_a_thought(episode.completion) if exam.verdict_alone else episode.completion
        parsed = parse_strict(said)
    answer_before: Answer | None = None
    if before is not None:
        answer_before = "Yes" if before > 0 else "No"
    cut = stopped or f"cut off at {exam.params.evaluate.max_tokens} tokens"
    return Said(
        answer=parsed.answer,
        boxes=parsed.boxes,
        defect_type=parsed.defect_type,
        parse=parsed.parse,
        fault="; ".join(fault for fault in (parsed.fault, cut if episode.cut else "") if fault),
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


def failed(reason: str) -> Said:
    """No answer, and why; such an item is tried again by the next run."""
    return Said(
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
            Spoken(
                text=step.text,
                observation="\n".join(texts) if texts else None,
                images_sha256=images,
            )
        )
    return Transcript(turns=turns).model_dump_json()
