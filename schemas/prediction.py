"""Prediction: what a policy said of one evaluated image, and what is true of it."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table

NotNegative = Annotated[int, Field(ge=0)]


class Prediction(BaseModel):
    """One image of a benchmark: the truth, the verdict, and how it came about.

    The truth stands beside the verdict so that every figure can be computed again from this table alone. It is
    written after the policy has answered, and never read by one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Name
    source_set: Name
    category: Name
    view: Name
    part_id: Name
    """Physical part: what intervals are resampled by."""
    true_answer: Literal["Yes", "No"]
    true_type: str | None
    """Leaf of the taxonomy; None on normal images."""
    true_boxes: list[UnitBox]
    """Empty on normal images, and where no mask is published."""
    area_fraction: Annotated[float, Field(ge=0, le=1)] | None
    """Share of the image that the defect covers; None on normal images and where no mask is published."""
    answer: Literal["Yes", "No"] | None
    """None where none could be read, which counts as wrong."""
    boxes: list[UnitBox]
    defect_type: str | None
    parse: Literal["strict", "tolerant", "rules", "unparsed", "failed"]
    """How the verdict was parsed. strict: the whole inspection has the exact form of the agent's grammar. tolerant: it
    deviates in form, but has one meaning. rules: by the rules for free text. unparsed: no verdict was found.
    failed: the policy gave no answer."""
    fault: str
    """What does not follow the grammar, or why there is no answer; empty where all is well."""
    margin: float | None
    """``log p(Yes) - log p(No)`` at the verdict, nats, where the policy gives it."""
    answer_before: Literal["Yes", "No"] | None
    """The side of that margin before any observation, where the policy gives it."""
    tools: list[str]
    """Names of the calls in order, refused ones too."""
    observed: NotNegative
    """Calls that returned something other than an error."""
    input_tokens: NotNegative
    output_tokens: NotNegative
    seconds: Annotated[float, Field(ge=0)]
    """Of the policy and its tools; of a batch, its share. Behind a server it is what was waited for: its queue and the
    pauses between attempts are in it, and an answer that was kept takes none."""
    cost_usd: Annotated[float, Field(ge=0)]
    transcript: str
    """JSON of a :class:`Transcript`."""


class TurnRecord(BaseModel):
    """One turn of the policy, as it wrote it, and what the tool it called returned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    """Raw, calls included."""
    observation: str | None = None
    """Text of what came back; None where nothing was called."""
    images_sha256: list[Sha256] = []
    """Of the PNG bytes of each returned image; the tools are deterministic, so the calls give them again."""


class Transcript(BaseModel):
    """All turns of one inspection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: list[TurnRecord]

    @model_validator(mode="after")
    def _an_image_has_its_text(self) -> "Transcript":
        if any(turn.images_sha256 and turn.observation is None for turn in self.turns):
            raise ValueError("an image that was returned has a text beside it")
        return self


def _read_or_not() -> pl.Expr:
    unread = pl.col("parse").is_in(["unparsed", "failed"])
    return unread == pl.col("answer").is_null()


PREDICTION = Table(
    "prediction",
    Prediction,
    key=("sample_id",),
    rules=[
        Rule("answer", "there is an answer where one was read, and only there", _read_or_not()),
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
