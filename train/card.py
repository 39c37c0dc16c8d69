"""The model card beside the weights: what they were made from and how, how it went, how to load them."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cot_builder.benchmarks.licences import SYNTHETIC
from cot_builder.params import Params
from cot_builder.storage.corpus import read_index
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
TINY = "tiny"
TITLES = {"sft": "An inspector fine-tuned on Indus-CoT", "grpo": "An inspector reinforced with real tools"}
METHODS = {
    "sft": "Supervised fine-tuning on Indus-CoT: thoughts, native tool calls and verdicts, with loss on what the "
    "policy writes and on nothing else.",
    "labels": "Supervised fine-tuning on the verdicts of Indus-CoT alone, without thoughts and tools: the control arm.",
    "grpo": "Group relative policy optimisation (GRPO, arXiv 2402.03300) with the inspection tools in the loop and the "
    "accuracy-gated reward of arXiv 2605.20682.",
}
NOTES = {
    "sft": "Of the training itself, at its end; `validation` is the corpus' own split.",
    "grpo": "Of the training itself: means over its first and over its last quarter.",
}


def write(folder: Path, stage: str, params: Params, workspace: Workspace, figures: Mapping[str, Any]) -> None:
    """Write ``README.md`` into the folder of the weights.

    Args:
        folder: Of the weights.
        stage: ``sft`` or ``grpo``.
        params: Of the run.
        workspace: Holds the corpus, and the model that ``grpo`` began from.
        figures: Name to number; or ``steps``, ``first`` and ``last``, the latter two name to number or None.

    Raises:
        IndusCotError: the corpus is not there or damaged.
    """
    from huggingface_hub import ModelCard, ModelCardData

    index, counts = read_index(workspace.indus_cot), read_manifest(workspace.indus_cot)["counts"]
    base, began = _base(stage, params, workspace)
    arm = "labels" if stage == "sft" and params.train.target == "labels" else stage
    head, rows = _table(figures)
    licences = sorted(index["licence"].unique())
    data = ModelCardData(
        base_model=base if _is_on_the_hub(base, workspace) else None,
        language="en",
        library_name="transformers",
        license="other",
        license_name="of-its-base-model-and-its-data",
        pipeline_tag="image-text-to-text",
        tags=["indus-cot", "industrial-inspection", "anomaly-detection", "trl", stage],
    )
    template = resources.files("train").joinpath("templates", "model_card.md.jinja").read_text("utf-8")
    synthetic = _only_synthetic(params, index["source_set"].unique().to_list())
    card = ModelCard.from_template(
        data,
        template_str=template,
        title=TITLES[stage],
        summary=METHODS[arm],
        began=began,
        splits=", ".join(f"{counts[name]:,} {name}" for name in ("train", "validation")),
        corpus_sha256=file_hash(workspace.indus_cot / "manifest.json"),
        images="synthetic stand-ins, rendered for the demonstration" if synthetic else "photographs",
        licences="; ".join(licences),
        teachers=", ".join(sorted(index["teacher"].unique())),
        looked=int((index["review_status"] != "auto").sum()),
        rows=len(index),
        parameters=_parameters(stage, params, workspace),
        libraries=", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        figures_note=NOTES[stage],
        figures_head=head,
        figures=rows,
        folder=f"models/{stage}",
        tools=arm != "labels",
        limits=_limits(base, synthetic, licences),
    )
    card.save(folder / "README.md")


def _base(stage: str, params: Params, workspace: Workspace) -> tuple[str, str]:
    """What all training began from, and the same in words with the stages in between."""
    if stage == "sft":
        return params.train.model, _named(params.train.model, workspace)
    start = params.grpo.model
    if (workspace.root / start / "manifest.json").is_file():
        base = read_manifest(workspace.root / start)["params"]["train"]["model"]
        return base, f"{_named(base, workspace)}, then stage `sft` of this project"
    return start, _named(start, workspace)


def _named(model: str, workspace: Workspace) -> str:
    if model == TINY:
        return "a randomly initialised Qwen3-VL of about two million weights, made by this project"
    # Where a folder lay on one's disk is nobody's business.
    return f"[{model}](https://huggingface.co/{model})" if _is_on_the_hub(model, workspace) else f"`{Path(model).name}`"


def _is_on_the_hub(model: str, workspace: Workspace) -> bool:
    return model != TINY and not (workspace.root / model).is_dir()


def _only_synthetic(params: Params, sets: Sequence[str]) -> bool:
    return all(name in params.pull and params.pull[name].source == SYNTHETIC for name in sets)


def _parameters(stage: str, params: Params, workspace: Workspace) -> list[tuple[str, str]]:
    chosen = params.model_dump(include={"train", stage}) | {"run": {"seed": params.run.seed}}
    found = []
    for section, values in chosen.items():
        for name, value in _flat(values):
            local = name == "model" and value != TINY and not _is_on_the_hub(value, workspace)
            found.append((f"{section}.{name}", str(Path(value).name if local else value)))
    return found


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{name}.{inner}" if inner else name, found)
        for name, value in values.items()
        for inner, found in (_flat(value) if isinstance(value, Mapping) else [("", value)])
    ]


def _table(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    if "first" not in figures:
        return ["figure", "value"], [[_words(name), _number(value)] for name, value in figures.items()]
    rows = [[_words(name), _number(value), _number(figures["last"][name])] for name, value in figures["first"].items()]
    return ["figure", "first quarter", "last quarter"], [["steps", "", _number(figures["steps"])], *rows]


def _limits(base: str, synthetic: bool, licences: Sequence[str]) -> list[str]:
    limits = []
    if base == TINY:
        limits.append("It is a proof that the training runs: so small a model, trained for minutes, inspects nothing.")
    if synthetic:
        limits.append("It has seen synthetic images alone.")
    if any("NC" in licence for licence in licences):
        limits.append("Some of its data may not be used commercially.")
    return limits


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
