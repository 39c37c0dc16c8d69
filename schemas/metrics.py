"""What ``results/SET/metrics.json`` holds: figures of one run on one set, all computed from its predictions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A figure and its bootstrap 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """None where there are too few parts to resample."""
    n: Count
    """Images it is computed on."""


class Scores(_Record):
    """Counts and figures of one group of images.

    Every other field is a figure by its name, an :class:`Estimate` or None where the group has nothing to compute it
    on; shares are in [0, 1]. :mod:`eval.metrics` knows the figures there are. Results of another version may lack some
    or have others.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Estimate | None]

    images: Count
    parts: Count
    tp: Count
    tn: Count
    fp: Count
    """Normal images without a No: wrong or unread."""
    fn: Count
    """Defective images without a Yes: wrong or unread."""
    unparsed: Count

    def figure(self, name: str) -> Estimate | None:
        """The figure of this name; None where the group, or the version that computed it, has none."""
        return self.__pydantic_extra__.get(name)

    @property
    def balanced_accuracy(self) -> Estimate | None:
        """The headline: mean of recall and specificity."""
        return self.figure("balanced_accuracy")


class ToolUse(_Record):
    """How the tools were used."""

    share: dict[str, float]
    """Share of the images on which each tool was called."""
    calls: float
    """An image, mean."""
    success: float | None
    """Share of the calls that returned something other than an error; None without calls."""
    looked: Count
    """Images with a call."""
    better: Count | None
    """Images whose margin the observations turned from the wrong side to the right one. Both margins are read after an
    empty thought; the verdict as it was written, or could not be read, has no part in it. None where the policy gives
    no margins."""
    worse: Count | None


class Cost(_Record):
    """What it took."""

    input_tokens: Count
    output_tokens: Count
    seconds: float
    """Sum over the images, as each was waited for (:mod:`schemas.prediction`): no wall time where several are asked at
    once."""
    usd: float


class CalibrationBin(_Record):
    """One bin of the calibration curve."""

    low: float
    high: float
    """Bounds of p(Yes), from the margin."""
    images: Count
    confidence: float
    """Mean p(Yes)."""
    defective: float
    """Share of truly defective images."""


class EvaluatedImages(_Record):
    """The images that were evaluated, beside the published list."""

    evaluated: Count
    available: Count | None
    """Test images in the pulled set; None where the run left no record of it."""
    published: Count | None
    """None where no list is published, and for rendered images."""
    same_list: bool | None
    """Whether exactly the published images were evaluated; never of rendered ones."""


class Contamination(_Record):
    """What of this set the trained model may have seen."""

    trained_on: str | None
    """The corpus, by the hash of its manifest; None for a model that is not of ours."""
    categories: list[str]
    """Evaluated categories that the corpus holds, by exact or normalised name."""
    images: Count
    """Evaluated images that the corpus holds, byte for byte."""
    image_ids: list[str] = []
    """The first of them, by sample id."""
    prior_categories: list[str] = []
    """Evaluated categories that a text of the prior tool describes, by exact or normalised name."""
    zero_shot: bool | None
    """None where it cannot be known what the model saw."""


class Run(_Record):
    """What was run; None where no record was left beside the predictions."""

    set: str
    mode: str | None
    """``agent``, ``agent-no-tools``, ``agent-without-<tool>`` or ``direct``."""
    rounds: Literal["free", "two"] | None
    policy: str | None
    """``transformers``, ``endpoint``, ``vllm``, or the name of a scripted one."""
    model: str | None
    model_sha256: str | None
    """Of the weights, where they are here: behind a server too, that is asked for a folder of this project."""
    priors: str | None
    """Where texts of the prior tool came from; a prior of an evaluated category is knowledge of it."""
    seed: int | None
    parameters: dict[str, Any]
    versions: dict[str, str]

    @property
    def title(self) -> str:
        """What tells it from other runs, in a line."""
        parts = [self.model or "a model of which no record is here", self.mode or "mode not recorded"]
        parts += ["two rounds"] if self.rounds == "two" else []
        parts += [f"weights {self.model_sha256[:8]}"] if self.model_sha256 else []
        return ", ".join(parts)


class Metrics(_Record):
    """One run on one set."""

    run: Run
    listing: EvaluatedImages
    contamination: Contamination
    overall: Scores
    by: dict[Literal["category", "type", "family", "view", "size"], dict[str, Scores]]
    """A group of defects (type, family, size) is measured against all normal images of the set."""
    macro: Estimate | None
    """Balanced accuracy, mean over categories."""
    tools: ToolUse
    cost: Cost
    calibration: list[CalibrationBin]
    """Empty without margins."""
    flags: list[str]
    """What a careful reader must know before believing a figure; also shown on the page."""
    draws: Count
    """Bootstrap resamples."""


class RunMean(_Record):
    """One run over all its sets."""

    run: str
    """As :attr:`Run.title` says it."""
    sets: list[str]
    """What the mean is over."""
    missing: list[str]
    """Of the paper's five, those that it is not over."""
    balanced_accuracy: Estimate
    """Mean over the sets, each counted alike; they are resampled independently of each other."""


class Overview(_Record):
    """What ``results/metrics.json`` holds."""

    runs: list[RunMean]
