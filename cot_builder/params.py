"""Load params.yaml, overridden by a profile and then by single settings, into frozen models."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.errors import IndusCotError, did_you_mean

PARAMS_FILE = Path("params.yaml")
PROFILES_FOLDER = Path("profiles")
NAME_PATTERN = r"^[a-z0-9_]+$"
"""Valid names of `pull` sets and of plug-in modules (data sets, teacher backends)."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of params.yaml: frozen, rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _null_to_empty_text(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML parses `teacher.model=` as null.
        assert info.field_name is not None
        return "" if value is None and cls.model_fields[info.field_name].annotation is str else value


class Run(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    strict: bool


class EndpointLimits(Section):
    concurrency: Positive
    rpm: Positive | None
    tpm: Positive | None
    timeout_s: Annotated[float, Field(gt=0)]
    attempts: Positive
    backoff_s: Annotated[float, Field(gt=0)]
    batch: bool
    poll_s: Annotated[float, Field(gt=0)]


class Compute(Section):
    workers: Positive
    executor: Literal["local", "ray"]
    endpoint: EndpointLimits


class Synthetic(Section):
    size: Annotated[int, Field(ge=128, le=2048)]
    categories: Annotated[int, Field(ge=2, le=30)]
    parts: Annotated[int, Field(ge=4)]
    views: Annotated[int, Field(ge=1, le=5)]


class PullSet(Section):
    benchmark: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of a data set: a module of ``cot_builder.benchmarks``, which checks whether it supports the fields below."""
    source: str | list[str]
    role: Literal["train", "evaluate"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum of the source archive; if unset, the published checksum is used."""
    resolution: Literal["256", "512", "1024"] = "1024"
    """Which published folder to read, for data sets published in several resolutions."""
    licence: str = ""
    """Licence of your own images, such as ``CC BY 4.0``; the module of a published set states its licence itself."""
    redistribution: Literal["allowed", "forbidden", "unknown"] | None = None
    """Whether `publish` may include your own images; ``unknown`` counts as ``forbidden``."""
    attribution: str = ""
    """Attribution line for your own images."""

    @model_validator(mode="after")
    def _check_redistribution(self) -> "PullSet":
        if self.redistribution and not self.licence:
            raise ValueError("redistribution is set without a licence that grants it; set licence too")
        return self


class Select(Section):
    samples: Annotated[int, Field(ge=2)]
    """At least 2: one normal and one anomalous sample."""
    validation_fraction: Fraction
    keep_categories: list[str]
    drop_categories: list[str]
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)]
    min_area_fraction: Fraction


class Patch(Section):
    global_size: Annotated[int, Field(ge=56)]
    local_size: Annotated[int, Field(ge=56)]
    proposals: Count
    jitter: Annotated[float, Field(ge=0, le=0.5)]
    hard_normal: Count


class Prior(Section):
    max_images: Positive
    shown_images: Positive


def _check_url(url: str) -> str:
    if url and not re.match(r"https?://[^/\s]", url):
        raise ValueError("must begin with http:// or https://, followed by a server name")
    return url


class Teacher(Section):
    backend: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name of a module of ``cot_builder.teacher.backends``."""
    base_url: Annotated[str, AfterValidator(_check_url)]
    model: str
    judge_model: str
    api_key_env: str
    structured: Literal["schema", "json", "text"]
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    max_tokens: Positive
    corrections: Count
    audit: bool
    judge_readings: Count

    @property
    def reader(self) -> str:
        """The model that audits and judges."""
        return self.judge_model or self.model

    @property
    def models(self) -> list[str]:
        """All models that receive requests, without duplicates."""
        return list(dict.fromkeys((self.model, self.reader)))


class Budget(Section):
    usd: Annotated[float, Field(ge=0)] | None
    tokens: Count | None


class Draft(Section):
    candidates: Positive
    blind: bool
    max_calls: Positive
    min_iou: Fraction
    max_words: Positive
    min_words: Positive


MAX_TITLE_CHARS = 50
"""Longest project title that Label Studio accepts."""


def _check_image_storage(place: str) -> str:
    # Label Studio reads a URL in a page's HTML up to the next quote or equals sign.
    if place != "local" and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)+", place, re.ASCII):
        raise ValueError(
            "must be local, or s3://BUCKET/PREFIX of letters, digits, dots, dashes and underscores, with no final slash"
        )
    return place


class Review(Section):
    url: Annotated[str, Field(pattern=r"^https?://[^/]+(/.*[^/])?$")]
    project: Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARS)]
    images: Annotated[str, AfterValidator(_check_image_storage)]
    """``local``, or ``s3://BUCKET/PREFIX``."""
    audit_share: Fraction
    annotators: list[Annotated[str, Field(min_length=1)]]
    overlap_share: Fraction
    gold_share: Fraction

    @model_validator(mode="after")
    def _check_annotators(self) -> "Review":
        if len({name.lower() for name in self.annotators}) < len(self.annotators):
            raise ValueError("annotators: an account is listed twice; remove the duplicate")
        for title in [*self.projects, self.priors]:
            if len(title) > MAX_TITLE_CHARS:
                raise ValueError(
                    f"project: the title {title!r} is longer than the {MAX_TITLE_CHARS} characters that Label Studio "
                    "accepts; shorten review.project"
                )
        return self

    @property
    def titles(self) -> list[str]:
        """Titles of the projects in which drafts are reviewed: one, or one for each annotator."""
        return [f"{self.project} · {name}" for name in self.annotators] or [self.project]

    @property
    def adjudication(self) -> str:
        """Title of the project in which disagreements between annotators are resolved."""
        return f"{self.project} · adjudication"

    @property
    def priors(self) -> str:
        """Title of the project in which all annotators review the normalcy priors."""
        return f"{self.project} · priors"

    @property
    def projects(self) -> list[str]:
        """Titles of all projects that contain drafts."""
        return [*self.titles, self.adjudication] if self.annotators else self.titles


class Assemble(Section):
    review: Literal["auto", "reviewed"]


class Train(Section):
    model: Annotated[str, Field(min_length=1)]
    target: Literal["trajectory", "labels"]
    max_tokens: Positive
    lora_rank: Count
    dtype: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    freeze_vision: bool


class Sft(Section):
    epochs: Annotated[float, Field(gt=0)]
    steps: Positive | None
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch: Positive
    accumulation: Positive
    save_steps: Positive
    log_steps: Positive


class Grpo(Section):
    model: Annotated[str, Field(min_length=1)]
    epochs: Annotated[float, Field(gt=0)]
    steps: Positive | None
    group: Annotated[int, Field(ge=2)]
    batch: Positive
    accumulation: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    kl: Weight
    scale_rewards: Literal["group", "batch", "none"]
    temperature: Annotated[float, Field(gt=0, le=2)]
    max_prompt: Positive
    max_completion: Positive
    margin_batch: Positive
    rollouts: Literal["transformers", "vllm-colocate", "vllm-server"]
    save_steps: Positive
    sample_steps: Positive
    reward: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Weight]
    """Weights and other parameters of the reward terms (:mod:`train.rewards`); omitted ones have their defaults."""


SCRIPTED_POLICIES = ("oracle", "always-yes", "always-no", "coin", "residual")
"""Policies without a model: reference points for evaluation, and a test of the metrics."""


def _check_mode(mode: str) -> str:
    # The tool's name is checked later: this module must not import the table of tools, which is a layer above.
    if not re.fullmatch(r"agent|agent-no-tools|agent-without-[a-z][a-z0-9_]*|direct", mode):
        raise ValueError("must be agent, agent-no-tools, agent-without-TOOL or direct")
    return mode


class Evaluate(Section):
    policy: Literal["transformers", "endpoint", "vllm", "oracle", "always-yes", "always-no", "coin", "residual"]
    model: str
    base_url: Annotated[str, AfterValidator(_check_url)]
    api_key_env: str
    mode: Annotated[str, AfterValidator(_check_mode)]
    reading: Literal["tolerant", "exact"] = "tolerant"
    rounds: Literal["free", "two"]
    max_calls: Positive
    max_tokens: Positive
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    batch: Positive
    limit: Positive | None
    draws: Positive

    @property
    def scripted(self) -> bool:
        """Whether the policy works without a model."""
        return self.policy in SCRIPTED_POLICIES


class Publish(Section):
    repo: Annotated[str, Field(pattern=r"^$|^[\w.-]+/[\w.-]+$")]
    licence: Literal["cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"]
    images: Literal["auto", "embed", "reference"]
    require_review: bool


class Report(Section):
    gallery: Positive


class Params(Section):
    """All parameters of a run, by section; a stage's section has the name of the stage."""

    run: Run
    compute: Compute
    synthetic: Synthetic
    pull: Annotated[dict[Annotated[str, Field(pattern=NAME_PATTERN)], PullSet], Field(min_length=1)]
    select: Select
    patch: Patch
    teacher: Teacher
    budget: Budget
    prior: Prior
    draft: Draft
    review: Review
    assemble: Assemble
    train: Train
    sft: Sft
    grpo: Grpo
    evaluate: Evaluate
    report: Report
    publish: Publish


def load_params(profile: str = "default", settings: Sequence[str] = (), root: Path = Path()) -> Params:
    """Load params.yaml of ``root``; ``profiles/<profile>.yaml`` overrides it, ``section.key=value`` overrides both.

    ``${NAME}`` and ``${NAME:-default}`` in a text value are replaced by environment variables.

    Raises:
        IndusCotError: a file is missing or not valid YAML; a key is unknown; a value is invalid. The message lists
            all invalid keys and values.
    """
    values = _read_yaml(root / PARAMS_FILE)
    _overlay(values, _read_yaml(_profile_path(profile, root)))
    for setting in settings:
        _overlay(values, _parse_setting(setting))
    try:
        return Params.model_validate(_expand_variables(values))
    except ValidationError as error:
        lines = [
            _describe_unknown_key([str(part) for part in item["loc"]], values)
            if item["type"] == "extra_forbidden"
            else f"{'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')} "
            f"(value {str(item['input'])[:80]!r})"
            for item in error.errors()
        ]
        raise IndusCotError(
            f"invalid parameters (params.yaml, profile {profile}, --set):\n  " + "\n  ".join(lines)
        ) from None


def _describe_unknown_key(parts: list[str], values: Mapping[str, Any]) -> str:
    """Return a message for an unknown key, with the most similar key of the same section in ``values``."""
    section = parts[:-1]
    for part in section:
        values = values[part]
    hint = did_you_mean(".".join(parts), {".".join([*section, str(name)]) for name in values} - {".".join(parts)})
    return f"no such parameter: {'.'.join(parts)}{hint}"


def list_profiles(root: Path = Path()) -> list[str]:
    """Return the names of the available profiles."""
    return sorted(path.stem for path in (root / PROFILES_FOLDER).glob("*.yaml"))


def _profile_path(profile: str, root: Path) -> Path:
    if profile not in list_profiles(root):
        raise IndusCotError(
            f"no profile {profile!r}; available profiles: {', '.join(list_profiles(root)) or 'none'} (profiles/*.yaml)"
        )
    return root / PROFILES_FOLDER / f"{profile}.yaml"


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise IndusCotError(f"{path.absolute()}: not found; run indus-cot in the project's folder")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise IndusCotError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error
    except yaml.YAMLError as error:
        raise IndusCotError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise IndusCotError(f"{path}: must contain sections of key: value, but contains a {type(values).__name__}")
    return values


def _parse_setting(setting: str) -> dict[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals or "." not in name:
        raise IndusCotError(f"--set {setting}: write section.key=value, for example --set select.samples=40")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise IndusCotError(f"--set {setting}: the value is not valid YAML: {error}") from error
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _overlay(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value


_VARIABLE_PATTERN = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _expand_variables(value: Any) -> Any:
    if isinstance(value, str):
        return _VARIABLE_PATTERN.sub(_look_up_variable, value)
    if isinstance(value, dict):
        return {key: _expand_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_variables(item) for item in value]
    return value


def _look_up_variable(match: re.Match[str]) -> str:
    name, default = match.groups()
    found = os.environ.get(name) or default
    if found is None:
        raise IndusCotError(f"the environment variable {name} is not set, but a parameter uses it; set it")
    return found
