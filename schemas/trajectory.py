"""Trajectory: a tool-integrated inspection as structure. Text is a rendering of it, made elsewhere."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table

ToolName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Whether a tool of that name exists is asked where the tools are known: by the toolbox, which refuses the call."""


class ToolCall(BaseModel):
    """One call of a tool, as the policy wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: ToolName
    arguments: dict[str, JsonValue]


class Observation(BaseModel):
    """What the tool really returned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    image_sha256: Sha256 | None = None
    """Of the PNG bytes of the returned image, which a shard beside the table holds under this key."""


class Turn(BaseModel):
    """A thought, and with it at most one call and its observation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    thought: str
    call: ToolCall | None = None
    observation: Observation | None = None

    @model_validator(mode="after")
    def _call_and_observation_together(self) -> "Turn":
        if (self.call is None) != (self.observation is None):
            raise ValueError("a turn has both a call and an observation, or neither")
        return self


class Verdict(BaseModel):
    """Yes with one or more boxes and a type, or No with neither."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Literal["Yes", "No"]
    boxes: list[UnitBox] = []
    defect_type: str | None = None

    @model_validator(mode="after")
    def _boxes_and_type_only_with_yes(self) -> "Verdict":
        if self.answer == "Yes" and (not self.boxes or not self.defect_type):
            raise ValueError("a Yes needs at least one box and a type")
        if self.answer == "No" and (self.boxes or self.defect_type):
            raise ValueError("a No has neither box nor type")
        return self


class Trajectory(BaseModel):
    """One inspection: turns of thought, call and observation; the last turn has no call; then the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: Annotated[list[Turn], Field(min_length=1)]
    verdict: Verdict

    @model_validator(mode="after")
    def _only_the_last_turn_without_call(self) -> "Trajectory":
        if self.turns[-1].call is not None or any(turn.call is None for turn in self.turns[:-1]):
            raise ValueError("every turn but the last has a call, and the last has none")
        return self

    @property
    def calls(self) -> list[ToolCall]:
        """The calls in order."""
        return [turn.call for turn in self.turns if turn.call]


class Violation(BaseModel):
    """One reason why a gate refused a draft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Name
    reason: Annotated[str, Field(min_length=1)]


class Draft(BaseModel):
    """One drafted trajectory: a row of the trajectory table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draft_id: Name
    """``<sample_id>#<candidate>``."""
    sample_id: Name
    candidate: Annotated[int, Field(ge=0)]
    trajectory: str
    """JSON of a :class:`Trajectory`; JSON, since the arguments of a call have no fixed Arrow type."""
    answer: Literal["Yes", "No"]
    defect_type: str | None
    boxes: list[UnitBox]
    tools: list[ToolName]
    """Names of the calls, in order."""
    observations: list[Sha256]
    """Images the trajectory shows, in order of appearance, without the query image."""
    gates: list[str]
    """Names of the gates that were run on it."""
    violations: list[Violation]
    """Empty where every gate passed and no other candidate was judged better."""
    judge_scores: list[Annotated[float, Field(ge=0, le=1)]]
    """One a reading of the judge; empty where no judge read it."""
    judge_disagreement: Annotated[float, Field(ge=0, le=1)] | None
    """Largest difference between two readings."""
    blind_answer: Literal["Yes", "No"] | None
    """What the teacher answered before it was told the truth; None where it was not asked."""
    corrections: Annotated[int, Field(ge=0)]
    """Rounds in which violations went back to the teacher."""
    sent_back_by: list[str]
    """What these rounds were for: gates, ``audit``, or ``form`` where an answer made no trajectory; once each."""
    draft_sha256: Sha256
    """Of the trajectory's JSON: reviews name the draft they judged by it."""
    teacher: Name
    prompt_version: Name
    toolbox_version: Name
    cost_usd: Annotated[float, Field(ge=0)]


DRAFT = Table(
    "trajectory",
    Draft,
    key=("draft_id",),
    rules=[
        Rule(
            "answer",
            "Yes has boxes and a type, No has neither",
            pl.when(pl.col("answer") == "Yes")
            .then((pl.col("boxes").list.len() > 0) & pl.col("defect_type").is_not_null())
            .otherwise((pl.col("boxes").list.len() == 0) & pl.col("defect_type").is_null()),
        ),
    ],
)


class ObservationImage(BaseModel):
    """Where the PNG of an observation lies, by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    shard: Name
    row: Annotated[int, Field(ge=0)]


OBSERVATION = Table("observation", ObservationImage, key=("sha256",))
