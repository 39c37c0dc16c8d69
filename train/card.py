"""Writes the model card next to the weights: data, method, parameters, figures, and how to load the model."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from cot_builder.benchmarks.benchmark import SYNTHETIC
from cot_builder.corpus.models import is_sha256
from cot_builder.corpus.reading import read_index
from cot_builder.corpus.validated import corpus_sha256
from cot_builder.params import Params
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
TINY = "tiny"
MAX_STAGES = 20
"""Limit on the chain of trainings that is followed: old manifests may refer to each other in a circle."""
TITLES = {"sft": "An inspector fine-tuned on Indus-CoT", "grpo": "An inspector reinforced with real tools"}
METHODS = {
    "sft": "Supervised fine-tuning on Indus-CoT: thoughts, native tool calls and verdicts, with loss on what the "
    "policy writes only.",
    "labels": "Supervised fine-tuning on the verdicts of Indus-CoT only, without thoughts and tools: the control arm.",
    "grpo": "Group relative policy optimisation (GRPO, arXiv 2402.03300) with the inspection tools in the loop and the "
    "accuracy-gated reward of arXiv 2605.20682.",
}
NOTES = {
    "sft": "Measured at the end of the training; `validation` is the validation split of the corpus.",
    "grpo": "Measured during the training: means over its first and its last quarter.",
}


def write(folder: Path, stage: str, params: Params, workspace: Workspace, figures: Mapping[str, Any]) -> None:
    """Write the model card, ``README.md``, into the folder of the weights.

    Args:
        folder: Folder of the weights.
        stage: ``sft`` or ``grpo``.
        params: Parameters of the run.
        workspace: Holds the corpus, and the model that ``grpo`` started from.
        figures: Maps names to numbers. For ``grpo`` it has ``steps``, and ``first`` and ``last``, which map names to
            numbers or None.

    Raises:
        IndusCotError: the corpus is missing or damaged.
    """
    from huggingface_hub import ModelCard, ModelCardData

    index, counts = read_index(workspace.indus_cot), read_manifest(workspace.indus_cot)["counts"]
    origin = _find_origin(params.train.model if stage == "sft" else params.grpo.model, workspace)
    arm = "labels" if stage == "sft" and params.train.target == "labels" else stage
    head, rows = _format_figures(figures)
    licences = sorted(index["licence"].unique())
    data = ModelCardData(
        base_model=origin.name if origin.on_the_hub else None,
        language="en",
        library_name="transformers",
        license="other",
        license_name="of-its-base-model-and-its-data",
        pipeline_tag="image-text-to-text",
        tags=["indus-cot", "industrial-inspection", "anomaly-detection", "trl", stage],
    )
    template = resources.files("train").joinpath("templates", "model_card.md.jinja").read_text("utf-8")
    synthetic = _is_only_synthetic(params, index["source_set"].unique().to_list())
    card = ModelCard.from_template(
        data,
        template_str=template,
        title=TITLES[stage],
        summary=METHODS[arm],
        base=_describe_origin(origin),
        splits=", ".join(f"{counts[name]:,} {name}" for name in ("train", "validation")),
        corpus_sha256=corpus_sha256(workspace.indus_cot),
        images="synthetic stand-ins, rendered for the demonstration" if synthetic else "photographs",
        licences="; ".join(licences),
        teachers=", ".join(sorted(index["teacher"].unique())),
        reviewed=int((index["review_status"] != "auto").sum()),
        rows=len(index),
        parameters=_list_parameters(stage, params, workspace),
        libraries=", ".join(f"{name} {version}" for name, version in library_versions().items()),
        figures_note=NOTES[stage],
        figures_head=head,
        figures=rows,
        folder=f"models/{stage}",
        tools=arm != "labels",
        limits=_list_limits(origin.name, synthetic, licences),
    )
    card.save(folder / "README.md")


def library_versions() -> dict[str, str]:
    """Return the installed version of each training library, by name."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


class _Origin(NamedTuple):
    """Base model of a chain of trainings: its name, whether it is on the Hub, and the stages since, oldest first."""

    name: str
    on_the_hub: bool
    stages: list[str]


def _find_origin(model: str, workspace: Workspace) -> _Origin:
    """Follow the manifests back from ``model`` to its base model.

    The chain ends where a folder is missing, or where its manifest is no longer the one that the training started from.
    """
    on_the_hub, digest, stages = _is_on_the_hub(model, workspace), None, list[str]()
    while (path := workspace.root / model / "manifest.json").is_file() and digest in (None, file_hash(path)):
        manifest = read_manifest(path.parent)
        parameters, inputs = manifest["params"], manifest.get("inputs", {})
        stage = "grpo" if "grpo" in parameters else "sft"
        earlier = parameters.get("grpo" if stage == "grpo" else "train", {}).get("model")
        if earlier is None or len(stages) == MAX_STAGES:
            break
        stages.insert(0, stage)
        # The folder itself may be deleted by now; its hash is kept in the manifest.
        digest = inputs.get("model") if is_sha256(inputs.get("model")) else None
        here = digest is not None or any(name.endswith(".safetensors") for name in inputs)
        model, on_the_hub = earlier, not here and _is_on_the_hub(earlier, workspace)
    return _Origin(model, on_the_hub, stages)


def _describe_origin(origin: _Origin) -> str:
    if origin.name == TINY:
        named = "a randomly initialised Qwen3-VL of about two million weights, made by this project"
    elif origin.on_the_hub:
        named = f"[{origin.name}](https://huggingface.co/{origin.name})"
    else:
        # Keep the path of a local folder private.
        named = f"`{Path(origin.name).name}`"
    stages = " and ".join(f"`{stage}`" for stage in origin.stages)
    return named + (f", then stage{'s' if len(origin.stages) > 1 else ''} {stages} of this project" if stages else "")


def _is_on_the_hub(model: str, workspace: Workspace) -> bool:
    return model != TINY and not (workspace.root / model).is_dir()


def _is_only_synthetic(params: Params, sets: Sequence[str]) -> bool:
    return all(name in params.pull and params.pull[name].source == SYNTHETIC for name in sets)


def _list_parameters(stage: str, params: Params, workspace: Workspace) -> list[tuple[str, str]]:
    chosen = params.model_dump(include={"train", stage}) | {"run": {"seed": params.run.seed}}
    found = []
    for section, values in chosen.items():
        for name, value in _flatten(values):
            local = name == "model" and value != TINY and not _is_on_the_hub(value, workspace)
            found.append((f"{section}.{name}", str(Path(value).name if local else value)))
    return found


def _flatten(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{name}.{inner}" if inner else name, found)
        for name, value in values.items()
        for inner, found in (_flatten(value) if isinstance(value, Mapping) else [("", value)])
    ]


def _format_figures(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    if "first" not in figures:
        return ["figure", "value"], [[_to_words(name), _format_number(value)] for name, value in figures.items()]
    first, last = figures["first"], figures["last"]
    rows = [[_to_words(name), _format_number(value), _format_number(last[name])] for name, value in first.items()]
    return ["figure", "first quarter", "last quarter"], [["steps", "", _format_number(figures["steps"])], *rows]


def _list_limits(base: str, synthetic: bool, licences: Sequence[str]) -> list[str]:
    limits = []
    if base == TINY:
        limits.append("It only shows that the training runs: a model this small, trained for minutes, cannot inspect.")
    if synthetic:
        limits.append("It was trained on synthetic images only.")
    if any("NC" in licence for licence in licences):
        limits.append("Some of its data may not be used commercially.")
    return limits


def _to_words(name: str) -> str:
    return name.replace("_", " ")


def _format_number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
