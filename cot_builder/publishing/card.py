"""The dataset card: content, provenance, known faults and licences of the corpus."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from cot_builder.benchmarks.licences import SYNTHETIC_LICENCE, combine_licences, to_hub_licence
from cot_builder.corpus import figures
from cot_builder.corpus.reading import SPLITS, read_index
from cot_builder.corpus.reviews import AcceptedShare, read_reviews
from cot_builder.inspection.tools import TOOLS
from cot_builder.params import Params
from cot_builder.publishing import pictures
from cot_builder.publishing.configs import CONFIGS, Config, features
from cot_builder.publishing.sources import Source
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace

README = "README.md"
CHANGELOG = "CHANGELOG.md"
TITLE = "Indus-CoT"
PAPER = "IndusAgent, arXiv:2605.20682 (https://arxiv.org/abs/2605.20682)"
SUMMARY = (
    "Tool-integrated inspections of industrial parts: a photograph, what an inspector thought, which tool it called, "
    "what the tool really returned, and a verdict with boxes and a defect type."
)
TAGS = ["indus-cot", "industrial-inspection", "anomaly-detection", "chain-of-thought", "tool-use", "grpo"]
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
CONFIG_DESCRIPTIONS: Mapping[Config, str] = {
    "sft": '`messages` (chat with native tool calls; each `{"type": "image"}` is the next of `images`), `images`, '
    "`tools` (function schemas). For supervised fine-tuning.",
    "rl": "`prompt`, `image`, `tools`, and, for rewards alone, the verdict of the row's trajectory: `answer` and "
    "`defect_type`, which gates held equal to the labels, and `boxes`, which overlap those of the labels by an IoU of "
    "at least {min_iou:g}, unless an expert corrected them since.",
    "preference": "`prompt`, `images`, and `chosen` and `rejected` with the images their tools returned: drafts that a "
    "gate or a judge turned down, or that an expert corrected, beside what was taken (`origin`, `reasons`).",
    "review": "What experts decided, under pseudonyms: verdict, reasons, ratings, seconds, and what they changed. "
    "`row` is the `id` in `sft`, which has none where the draft was turned down. A `role` of `gold` is a hidden "
    "check: its page showed a planted mistake, and `caught` says whether it was seen.",
}


def measure_splits(folder: Path) -> dict[Config, dict[str, tuple[int, int, int]]]:
    """Number of rows, bytes and files by configuration and split."""
    found: dict[Config, dict[str, tuple[int, int, int]]] = {}
    for config in CONFIGS:
        for split in SPLITS:
            paths = list((folder / config / split).glob("*.parquet"))
            if paths:
                rows = sum(pq.read_metadata(path).num_rows for path in paths)
                size = sum(path.stat().st_size for path in paths)
                found.setdefault(config, {})[split] = (rows, size, len(paths))
    return found


def dataset_info(folder: Path) -> list[dict[str, Any]]:
    """``dataset_info`` of the card: columns, rows and sizes of every configuration.

    `datasets` keys its cache of a local folder by these values only, not by the files.
    """
    found = []
    for config, splits in measure_splits(folder).items():
        total = sum(size for _, size, _ in splits.values())
        found.append(
            {
                "config_name": config,
                "features": features(config)._to_yaml_list(),
                "splits": [
                    {"name": split, "num_bytes": size, "num_examples": rows}
                    for split, (rows, size, _) in splits.items()
                ],
                "download_size": total,
                "dataset_size": total,
            }
        )
    return found


def copy_card(card: Path, folder: Path) -> None:
    """Copy a card into a folder with shards of other sizes."""
    from huggingface_hub import DatasetCard

    found = DatasetCard.load(card)
    found.data.dataset_info = dataset_info(folder)
    found.save(folder / README)


def list_licences(params: Params, shown: Mapping[str, Source]) -> list[str]:
    """Licence identifiers of the texts and of the images of every set."""
    return sorted({params.publish.licence, *(to_hub_licence(source.facts.licence) for source in shown.values())})


def strictest_licence(params: Params, shown: Mapping[str, Source]) -> str:
    """Identifier of the dataset's licence: the strictest of the texts' and of every set's images."""
    return combine_licences(list_licences(params, shown))


def render_card(
    repo: str,
    params: Params,
    workspace: Workspace,
    shown: Mapping[str, Source],
    manifest: Mapping[str, Any],
    audit: AcceptedShare | None = None,
) -> dict[str, bytes]:
    """The card and its pictures, by path in the repository.

    Args:
        repo: ``OWNER/NAME``.
        params: The parameters.
        workspace: The project.
        shown: The data sets that the images come from, by name.
        manifest: Manifest of the publication.
        audit: Share of randomly drawn drafts that experts accepted; None if none was reviewed.

    Raises:
        IndusCotError: the corpus is damaged.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    folder = workspace.publish
    found, index = measure_splits(folder), read_index(workspace.indus_cot)
    licence = strictest_licence(params, shown)
    example = pictures.pick_example(folder)
    files = {**(example.pictures if example else {}), **_draw_plots(index)}
    data = DatasetCardData(
        language=["en"],
        license=licence,
        license_name="mixed" if licence == "other" else None,
        pretty_name=TITLE,
        task_categories=["image-text-to-text", "visual-question-answering", "reinforcement-learning"],
        size_categories=[next((name for most, name in SIZES if len(index) < most), "n>1M")],
        annotations_creators=["machine-generated", *(["expert-generated"] if _count_reviewed(index) else [])],
        tags=[*TAGS, *(["preference"] if "preference" in found else [])],
        configs=[_make_config_entry(config, splits) for config, splits in found.items()],
        dataset_info=dataset_info(folder),
        version=manifest["version"],
    )
    card = DatasetCard.from_template(
        data,
        template_str=resources.files("cot_builder.publishing")
        .joinpath("templates", "dataset_card.md.jinja")
        .read_text("utf-8"),
        title=TITLE,
        summary=SUMMARY,
        repo=repo,
        version=manifest["version"],
        rows=len(index),
        found=found,
        about={
            name: text.format(min_iou=params.draft.min_iou) if name == "rl" else text
            for name, text in CONFIG_DESCRIPTIONS.items()
        },
        left_out=list_left_out(folder),
        kept=params.select.keep_categories,
        example=_list_example_turns(example) if example else None,
        by_reference=[name for name, source in shown.items() if not source.embedded],
        sources=_describe_sources(index, shown),
        licence=licence,
        parts=list_licences(params, shown),
        our_licence=params.publish.licence,
        teachers=_format_counts(index, "teacher"),
        prompts=", ".join(sorted(index["prompt_version"].unique())),
        toolbox=", ".join(sorted(index["toolbox_version"].unique())),
        gates=_read_gates(workspace),
        reviews=_summarise_reviews(workspace, index, audit),
        composition=figures.count_balance(index, "category"),
        tools=figures.count_tool_use(index, TOOLS),
        types=figures.count_defect_types(index),
        plots=list(_draw_plots(index)),
        leakage=_read_leakage(workspace),
        faults=_list_limitations(index, shown),
        cost=float(index["cost_usd"].sum()),
        paper=PAPER,
        changelog=list(reversed(manifest["changelog"])),
    )
    return {README: re.sub(r"\n{3,}", "\n\n", card.content).encode(), **files}


def _make_config_entry(config: Config, splits: Mapping[str, Any]) -> dict[str, Any]:
    files = [{"split": split, "path": f"{config}/{split}/*.parquet"} for split in splits]
    return {"config_name": config, "data_files": files} | ({"default": True} if config == "sft" else {})


def list_left_out(folder: Path) -> list[str]:
    """Counts of pairs and reviews that ``data/publish`` leaves out or that have no row."""
    counts = read_manifest(folder)["counts"]
    return [f"{name}: {count}" for name, count in sorted(counts.items()) if name.startswith(("reviews ", "pairs "))]


def _count_reviewed(index: pl.DataFrame) -> int:
    return int((index["review_status"] != "auto").sum())


def _list_example_turns(example: pictures.Example) -> dict[str, Any]:
    """Turns of the example's chat with their pictures."""
    images = iter(example.pictures)
    turns = []
    for message in json.loads(example.row["messages"])[1:]:
        parts = []
        for part in message["content"]:
            if part["type"] == "image":
                path = next(images, None)
                parts.append({"image": path} if path else {"text": "(image)"})
            else:
                parts.append({"text": part["text"]})
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", [])]
        turns.append({"role": message["role"], "parts": parts, "calls": calls})
    return {"id": example.row["id"], "obtain": example.row["obtain"], "turns": turns}


def _draw_plots(index: pl.DataFrame) -> dict[str, bytes]:
    balance = [(item.name, item.normal, item.anomalous) for item in figures.count_balance(index, "category")]
    tools = [(item.tool, item.trajectories, 0) for item in figures.count_tool_use(index, TOOLS)]
    return {
        "assets/categories.png": pictures.draw_bars("Trajectories by category", balance, ("sound", "defective")),
        "assets/tools.png": pictures.draw_bars("Trajectories that call a tool", tools),
        "assets/types.png": pictures.draw_bars(
            "Defective trajectories by type", [(name, count, 0) for name, count in figures.count_defect_types(index)]
        ),
    }


def _describe_sources(index: pl.DataFrame, shown: Mapping[str, Source]) -> list[dict[str, Any]]:
    rows = Counter(index["source_set"].to_list())
    return [
        {
            "name": name,
            "rows": rows[name],
            "facts": source.facts,
            "synthetic": source.facts.licence == SYNTHETIC_LICENCE,
            "embedded": source.embedded,
            "obtain": source.obtain,
        }
        for name, source in shown.items()
    ]


def _format_counts(index: pl.DataFrame, column: str) -> str:
    return ", ".join(f"{name} ({count})" for name, count in figures.count_values(index, column))


def _read_gates(workspace: Workspace) -> dict[str, Any] | None:
    path = workspace.reports / "gates.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _summarise_reviews(workspace: Workspace, index: pl.DataFrame, audit: AcceptedShare | None) -> dict[str, Any]:
    reviews = read_reviews(workspace)
    return {
        "looked": _count_reviewed(index),
        "by_status": _format_counts(index, "review_status"),
        "people": len({row.reviewer.lower() for row in reviews}),
        "groups": _read_agreement(workspace) if reviews else [],
        "audit": audit,
    }


def _read_agreement(workspace: Workspace) -> list[dict[str, Any]]:
    """Agreement of experts, without their names."""
    path = workspace.reports / "agreement.json"
    if not path.is_file():
        return []
    groups: Sequence[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["groups"]
    named = []
    for number, group in enumerate(groups, 1):
        who = "all experts" if group["who"] == "all" else f"pair {number}"
        named.append({**group, "who": who})
    return named


def _read_leakage(workspace: Workspace) -> str:
    """The leakage report of `select` with headings two levels lower; empty if there is none."""
    path = workspace.select / "leakage.md"
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in lines).strip()


def _list_limitations(index: pl.DataFrame, shown: Mapping[str, Source]) -> list[str]:
    faults = []
    auto = len(index) - _count_reviewed(index)
    if auto:
        faults.append(f"No person has looked at {auto} of {len(index)} rows (`review_status` is `auto`).")
    if "offline" in index["teacher"].unique():
        faults.append(
            "The teacher called `offline` is a deterministic inspector: its thoughts have few forms, and it knows no "
            "material and no function of a part."
        )
    if any(source.facts.licence == SYNTHETIC_LICENCE for source in shown.values()):
        faults.append("Some or all of the photographs are synthetic stand-ins, rendered for a demonstration.")
    if len(index["category"].unique()) < 10:
        faults.append(f"It has {index['category'].n_unique()} categories: too few to speak of parts in general.")
    faults += [
        "Teachers know the verdict while they draft: the reasoning explains a known truth, and may find in an image "
        "what nobody would have found without knowing.",
        "Boxes and types follow the benchmarks' labels, with their mistakes.",
    ]
    return faults
