"""Trajectory: the structure of a tool-integrated inspection. `cot_builder.inspection.rendering` renders it as text."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table

# The messages of the validators below are sent to the teacher when an answer is invalid. Cached answers depend on their
# wording: do not change it.

ToolName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Syntax of a tool name. The toolbox checks whether the tool exists, and refuses the call if not."""


class ToolCall(BaseModel):
    """One tool call, as the policy wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: ToolName
    arguments: dict[str, JsonValue]


class Observation(BaseModel):
    """The recorded result of a tool call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    image_sha256: Sha256 | None = None
    """Hash of the PNG bytes of the returned image. It is the key of the image in the shards next to the table."""


class Turn(BaseModel):
    """A thought with at most one call and its observation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    thought: str
    call: ToolCall | None = None
    observation: Observation | None = None

    @model_validator(mode="after")
    def _check_call_has_observation(self) -> "Turn":
        if (self.call is None) != (self.observation is None):
            raise ValueError("a turn has both a call and an observation, or neither")
        return self


class Verdict(BaseModel):
    """Verdict of an inspection: Yes with at least one box and a type, or No without both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Literal["Yes", "No"]
    boxes: list[UnitBox] = []
    defect_type: str | None = None

    @model_validator(mode="after")
    def _check_boxes_and_type(self) -> "Verdict":
        if self.answer == "Yes" and (not self.boxes or not self.defect_type):
            raise ValueError("a Yes needs at least one box and a type")
        if self.answer == "No" and (self.boxes or self.defect_type):
            raise ValueError("a No has neither box nor type")
        return self


class Trajectory(BaseModel):
    """One inspection: its turns, of which only the last has no call, and the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: Annotated[list[Turn], Field(min_length=1)]
    verdict: Verdict

    @model_validator(mode="after")
    def _check_only_last_turn_has_no_call(self) -> "Trajectory":
        if self.turns[-1].call is not None or any(turn.call is None for turn in self.turns[:-1]):
            raise ValueError("every turn but the last has a call, and the last has none")
        return self

    @property
    def calls(self) -> list[ToolCall]:
        """All calls in order."""
        return [turn.call for turn in self.turns if turn.call]


class Violation(BaseModel):
    """One reason for which a gate rejected a draft."""

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
    """JSON of a :class:`Trajectory`. It is JSON because the arguments of calls have no fixed Arrow type."""
    answer: Literal["Yes", "No"]
    defect_type: str | None
    boxes: list[UnitBox]
    tools: list[ToolName]
    """Names of the called tools in order."""
    observations: list[Sha256]
    """Hashes of the observation images in order, without the inspected image."""
    gates: list[str]
    """Names of the gates that checked the draft."""
    violations: list[Violation]
    """Empty if every gate passed and no other candidate was judged better."""
    judge_scores: list[Annotated[float, Field(ge=0, le=1)]]
    """One score per reading of the judge; empty without a judge."""
    judge_disagreement: Annotated[float, Field(ge=0, le=1)] | None
    """Largest difference between two readings."""
    blind_answer: Literal["Yes", "No"] | None
    """Answer of the teacher before it knew the ground truth; None if it was not asked."""
    corrections: Annotated[int, Field(ge=0)]
    """Number of rounds in which violations were sent back to the teacher."""
    sent_back_by: list[str]
    """Reasons of these rounds, each once: names of gates, ``audit``, or ``form`` for an invalid trajectory."""
    draft_sha256: Sha256
    """Hash of ``trajectory``. A review refers to its draft by this hash."""
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
    """Shard and row of the PNG of an observation, by its content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    shard: Name
    row: Annotated[int, Field(ge=0)]


OBSERVATION = Table("observation", ObservationImage, key=("sha256",))
