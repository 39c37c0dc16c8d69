"""Schema of ``results/SET/metrics.json``: the figures of one run on one set, computed from its predictions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float | None
    high: float | None
    """``low`` and ``high`` are None if there are too few parts to resample."""
    n: Count
    """Number of images that the figure is computed on."""


class Scores(_Record):
    """Counts and figures of one group of images.

    Every extra field is a figure: an :class:`Estimate`, or None if the group has no data for it. Shares are in [0, 1].
    :mod:`eval.metrics` lists all figures. Results of another version may have fewer or different ones.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Estimate | None]

    images: Count
    parts: Count
    tp: Count
    tn: Count
    fp: Count
    """Normal images not answered No: answered wrongly or unparsed."""
    fn: Count
    """Defective images not answered Yes: answered wrongly or unparsed."""
    unparsed: Count

    def figure(self, name: str) -> Estimate | None:
        """Return a figure by its name; None if the group has no data for it or the version did not compute it."""
        return self.__pydantic_extra__.get(name)

    @property
    def balanced_accuracy(self) -> Estimate | None:
        """The headline figure: the mean of recall and specificity."""
        return self.figure("balanced_accuracy")


class ToolUse(_Record):
    """Use of the tools."""

    share: dict[str, float]
    """Share of the images on which each tool was called."""
    calls: float
    """Mean number of calls per image."""
    success: float | None
    """Share of the calls that returned no error; None without calls."""
    looked: Count
    """Number of images with at least one call."""
    better: Count | None
    """Number of images whose margin moved from the wrong side to the right one after the observations. Both margins are
    measured after an empty thought, independently of the written verdict. None if the policy gives no margins."""
    worse: Count | None
    """Number of images whose margin moved from the right side to the wrong one; None as above."""


class Cost(_Record):
    """Tokens, time and money that a run took."""

    input_tokens: Count
    output_tokens: Count
    seconds: float
    """Sum of the waiting times of all images (see :mod:`schemas.prediction`). It exceeds the wall time if several
    images are asked at once."""
    usd: float


class CalibrationBin(_Record):
    """One bin of the calibration curve."""

    low: float
    high: float
    """``low`` and ``high`` bound p(Yes), which is computed from the margin."""
    images: Count
    confidence: float
    """Mean p(Yes) of the images."""
    defective: float
    """Share of the images that are defective."""


class EvaluatedImages(_Record):
    """Counts of the evaluated images, compared with the published test list."""

    evaluated: Count
    available: Count | None
    """Test images in the pulled set; None if the run left no record of it."""
    published: Count | None
    """Images of the published test list; None without such a list and for rendered images."""
    same_list: bool | None
    """Whether exactly the published images were evaluated; never True for rendered images."""


class Contamination(_Record):
    """Overlap of this set with the data that the model was trained on."""

    trained_on: str | None
    """Hash of the manifest of the training corpus; None for a model that this project did not train."""
    categories: list[str]
    """Evaluated categories that are also in the corpus, by exact or normalised name."""
    images: Count
    """Number of evaluated images that are also in the corpus, byte for byte."""
    image_ids: list[str] = []
    """Sample ids of the first of these images."""
    prior_categories: list[str] = []
    """Evaluated categories that have a text in the prior tool, by exact or normalised name."""
    zero_shot: bool | None
    """Whether the corpus has none of the evaluated categories and images; None if the training data are unknown."""


class Run(_Record):
    """Policy and settings of a run. Fields are None if no record was left next to the predictions."""

    set: str
    mode: str | None
    """``agent``, ``agent-no-tools``, ``agent-without-<tool>`` or ``direct``."""
    rounds: Literal["free", "two"] | None
    policy: str | None
    """``transformers``, ``endpoint``, ``vllm``, or the name of a scripted policy."""
    model: str | None
    model_sha256: str | None
    """Hash of the weights if they are local. That includes a server that serves a local folder of this project."""
    priors: str | None
    """Origin of the texts of the prior tool. A text about an evaluated category is knowledge of that category."""
    seed: int | None
    parameters: dict[str, Any]
    versions: dict[str, str]

    @property
    def title(self) -> str:
        """One line that identifies the run: model, mode, rounds and weights."""
        parts = [self.model or "model not recorded", self.mode or "mode not recorded"]
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
    """Scores by group. A group of defects (type, family, size) is compared with all normal images of the set."""
    macro: Estimate | None
    """Mean of the balanced accuracy over categories."""
    tools: ToolUse
    cost: Cost
    calibration: list[CalibrationBin]
    """Empty if the policy gives no margins."""
    flags: list[str]
    """Reservations about the figures, which the page shows too."""
    draws: Count
    """Number of bootstrap resamples."""


class RunMean(_Record):
    """Mean of one run over its sets."""

    run: str
    """The :attr:`Run.title` of the run."""
    sets: list[str]
    """Sets that the mean is over."""
    missing: list[str]
    """Sets of the paper's five that are not in the mean."""
    balanced_accuracy: Estimate
    """Mean over the sets with equal weights. Each set is resampled independently."""


class Overview(_Record):
    """Schema of ``results/metrics.json``."""

    runs: list[RunMean]
