"""Prediction: the verdict of a policy on one evaluated image, with the ground truth."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table

NotNegative = Annotated[int, Field(ge=0)]


class Prediction(BaseModel):
    """One evaluated image: the ground truth, the verdict, and how the policy arrived at it.

    The table includes the ground truth, so that every figure can be recomputed from this table alone. The truth is
    added after the policy has answered; no policy reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Name
    source_set: Name
    category: Name
    view: Name
    part_id: Name
    """Physical part. Confidence intervals are computed by resampling parts."""
    true_answer: Literal["Yes", "No"]
    true_type: str | None
    """Leaf of the taxonomy; None for normal images."""
    true_boxes: list[UnitBox]
    """Empty for normal images and if no mask is published."""
    area_fraction: Annotated[float, Field(ge=0, le=1)] | None
    """Share of the image that the defect covers; None for normal images and if no mask is published."""
    answer: Literal["Yes", "No"] | None
    """None if no answer could be parsed, which counts as wrong."""
    boxes: list[UnitBox]
    defect_type: str | None
    parse: Literal["strict", "tolerant", "rules", "unparsed", "failed"]
    """How the verdict was parsed. strict: the whole inspection has the exact form of the agent's grammar. tolerant: it
    deviates in form, but has one meaning. rules: by the rules for free text. unparsed: no verdict was found.
    failed: the policy gave no answer."""
    fault: str
    """Deviation from the grammar, or the reason for a missing answer; empty if there is neither."""
    margin: float | None
    """``log p(Yes) - log p(No)`` at the verdict, in nats; None if the policy does not give it."""
    answer_before: Literal["Yes", "No"] | None
    """Answer by the sign of the margin before any observation; None if the policy does not give it."""
    tools: list[str]
    """Names of the called tools in order, including refused calls."""
    observed: NotNegative
    """Number of calls that returned no error."""
    input_tokens: NotNegative
    output_tokens: NotNegative
    seconds: Annotated[float, Field(ge=0)]
    """Time of the policy and its tools; in a batch, the image's share of it. With a server it is the waiting time,
    including the queue and pauses between attempts. A cached answer takes no time."""
    cost_usd: Annotated[float, Field(ge=0)]
    transcript: str
    """JSON of a :class:`Transcript`."""


class TurnRecord(BaseModel):
    """One turn of the policy, verbatim, and the observation that its tool call returned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    """Raw text, including calls."""
    observation: str | None = None
    """Text of the observation; None if no tool was called."""
    images_sha256: list[Sha256] = []
    """Hash of the PNG bytes of each returned image. The tools are deterministic: repeat the calls to get the images."""


class Transcript(BaseModel):
    """All turns of one inspection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: list[TurnRecord]

    @model_validator(mode="after")
    def _check_images_have_text(self) -> "Transcript":
        if any(turn.images_sha256 and turn.observation is None for turn in self.turns):
            raise ValueError("a turn with a returned image needs the text of the observation")
        return self


def _answer_matches_parse() -> pl.Expr:
    unread = pl.col("parse").is_in(["unparsed", "failed"])
    return unread == pl.col("answer").is_null()


PREDICTION = Table(
    "prediction",
    Prediction,
    key=("sample_id",),
    rules=[
        Rule("answer", "the answer is null exactly if parse is unparsed or failed", _answer_matches_parse()),
        Rule(
            "boxes",
            "only a Yes has boxes or a type",
            (pl.col("answer") == "Yes").fill_null(False)
            | ((pl.col("boxes").list.len() == 0) & pl.col("defect_type").is_null()),
        ),
        Rule(
            "true_boxes",
            "only a true Yes has boxes or a type",
            (pl.col("true_answer") == "Yes") | ((pl.col("true_boxes").list.len() == 0) & pl.col("true_type").is_null()),
        ),
    ],
)
