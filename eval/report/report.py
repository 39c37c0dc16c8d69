"""Stage `report`: writes a self-contained HTML page of the corpus with counts, tools, gates, leakage and a gallery."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cot_builder.corpus import figures
from cot_builder.corpus.reading import RowLocation, read_index, read_rows
from cot_builder.inspection.tools import TOOLS
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.output import write_text
from cot_builder.storage.parallel import thread_map
from cot_builder.storage.workspace import Workspace
from cot_builder.teacher.gates import CORPUS_GATES, GATES
from cot_builder.teacher.gates.gate import AUDIT, JUDGE, UNFINISHED
from eval.report.html import format_count, render
from eval.report.items import clear_items, write_items
from eval.report.pipeline import PulledSet, Stage, merge_versions, read_gates, read_json, read_pulled_sets, read_stages
from eval.report.results import read_results
from eval.report.training import read_training
from eval.report.trajectory import THUMBNAIL_BYTES, View, make_view
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from schemas.trajectory import DRAFT, Trajectory

PAGE_BYTES = 11 * 2**20
"""Limit on the size of all images of the page, as base64."""
QUERY_WEIGHT = 1.8
"""Size of an inspected image, relative to an observation."""
MAX_IMAGE_BYTES = 90_000
MAX_REJECTED = 40
MAX_COPIES = 25
SECTIONS = (
    ("sec-pipeline", "Pipeline"),
    ("sec-corpus", "Corpus"),
    ("sec-tools", "Tools and lengths"),
    ("sec-gates", "Gates"),
    ("sec-leakage", "Leakage"),
    ("sec-reviews", "Reviews and licences"),
    ("sec-training", "Training"),
    ("sec-evaluation", "Evaluation"),
    ("sec-gallery", "Trajectories"),
)


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    name: str
    value: str
    note: str


READING_GATES = {
    AUDIT: "A second reading, without supervision, confirms every statement by the images and results.",
    JUDGE: "No other valid candidate of the sample scored higher.",
    UNFINISHED: "The teacher completed the draft.",
}


@dataclass(frozen=True)
class RejectedDraft:
    """A rejected draft, as the page shows it."""

    draft_id: str
    gates: list[str]
    reasons: list[tuple[str, str]]
    trajectory: Trajectory


def report(params: Params, workspace: Workspace) -> None:
    """Write ``reports/index.html``; the corpus is read in batches and at most ``report.gallery`` rows are shown.

    A separate page, ``reports/items``, shows every evaluated image.

    Raises:
        IndusCotError: a stage has not run, or its output is damaged.
    """
    index = read_index(workspace.indus_cot)
    if not len(index):
        raise IndusCotError(f"{workspace.indus_cot}: the corpus has no row; run `indus-cot assemble` again")
    context = {
        **_describe_corpus(index),
        **_describe_pipeline(params, workspace, index),
        **_describe_gates(workspace),
        **_describe_leakage(workspace, index),
        **_describe_reviews(index),
        "training": read_training(workspace),
        "results": read_results(workspace),
        "evaluated_sets": [name for name, settings in params.pull.items() if settings.role == "evaluate"],
    }
    absent = {f"sec-{name}" for name, key in (("training", "training"), ("evaluation", "results")) if not context[key]}
    context["lead"] = _write_lead(context)
    context["tiles"] = _make_tiles(context)
    gallery = _make_gallery(workspace, figures.choose_gallery(index, params.report.gallery), params.compute.workers)
    # DVC expects the items page whenever the results folder exists, even if no set was evaluated.
    items = write_items(workspace) if workspace.results.is_dir() else clear_items(workspace)
    page = render(
        "report.html.jinja",
        ["start.js", "gallery.js"],
        {
            **context,
            "items": items,
            "sections": [item for item in SECTIONS if item[0] not in absent],
            "gallery": gallery,
            "facets": _count_facets(gallery),
            "corpus_folder": "data/indus_cot",
        },
    )
    write_text(workspace.reports / "index.html", page)


def _describe_corpus(index: pl.DataFrame) -> dict[str, Any]:
    calls = index["tool_calls"].list.len()
    tools = figures.count_tool_use(index, TOOLS)
    return {
        "total": len(index),
        "anomalous": int((index["answer"] == "Yes").sum()),
        "category_count": index["category"].n_unique(),
        "view_count": index["view"].n_unique(),
        "by_category": figures.count_balance(index, "category"),
        "by_split": figures.count_balance(index, "split"),
        "by_set": figures.count_balance(index, "source_set"),
        "by_view": figures.count_balance(index, "view"),
        "by_type": figures.count_defect_types(index),
        "tools": tools,
        "tool_names": [use.tool for use in tools],
        "by_tool": figures.count_tool_use_by_type(index, TOOLS),
        "calls_total": int(calls.sum()),
        "calls_mean": float(calls.mean()),  # type: ignore[arg-type]
        "images_total": int(index["images"].sum()),
        "refused_total": int(index["refused"].sum()),
        "histograms": [
            figures.make_histogram(calls, "Tool calls a trajectory", "calls"),
            figures.make_histogram(index["turns"], "Turns a trajectory", "turns"),
            figures.make_histogram(index["words"], "Words of thought a trajectory", "words"),
        ],
    }


def _describe_pipeline(params: Params, workspace: Workspace, index: pl.DataFrame) -> dict[str, Any]:
    sets: list[PulledSet] = read_pulled_sets(params, workspace)
    after: list[Stage] = read_stages(workspace)
    gates = read_gates(workspace)
    selected = read_json(workspace.select / "leakage.json", "indus-cot select")["counts"]
    ran: list[PulledSet | Stage] = [*sets, *after]
    found = merge_versions([item.versions for item in ran])
    mixed = [f"{name} {' and '.join(values)}" for name, values in found.items() if len(values) > 1]
    funnel = [
        ("pulled, training sets", selected["pulled"]),
        ("in kept categories", selected["in kept categories"]),
        ("usable", selected["usable"]),
        ("selected", selected["selected"]),
        ("with a draft that passed", gates["samples"] - gates["samples_without_trajectory"]),
        ("in the corpus", index["sample_id"].n_unique()),
    ]
    return {
        "pulls": sets,
        "stages": after,
        "seconds": sum(item.seconds for item in ran),
        "versions": found,
        "mixed_versions": ", ".join(mixed),
        "funnel": funnel,
    }


def _describe_gates(workspace: Workspace) -> dict[str, Any]:
    gates = read_gates(workspace)
    asks = {name: _clean_docstring(gate.__doc__) for name, gate in GATES.items()}
    asks |= dict.fromkeys(CORPUS_GATES, "No draft repeats another word for word, numbers apart.")
    asks |= READING_GATES
    table = DRAFT.read(workspace.draft / "rejected.parquet")
    rows = [
        RejectedDraft(
            row.draft_id,
            list(dict.fromkeys(violation.gate for violation in row.violations)),
            [(violation.gate, violation.reason) for violation in row.violations],
            Trajectory.model_validate_json(row.trajectory),
        )
        for row in DRAFT.records(_pick_rejected(table))
    ]
    return {
        "gates": gates,
        "teacher_rows": _list_teacher_figures(gates["teacher"], gates["samples"]),
        "gate_rows": [(name, asks.get(name, ""), count) for name, count in gates["failed"].items()],
        "rejected": rows,
        "rejected_total": len(table),
    }


def _list_teacher_figures(figures: dict[str, Any], samples: int) -> list[tuple[str, str, str]]:
    """Return cost, corrections, judge and blind question of a paid teacher, as (name, figure, note)."""
    if not figures["usd"] and "judge" not in figures:
        return []
    corrections = {int(rounds): count for rounds, count in figures["corrections"].items()}
    rows = [
        ("cost", f"{figures['usd']:.2f} USD", f"{figures['usd'] / samples:.4f} a sample"),
        ("corrections", str(sum(rounds * count for rounds, count in corrections.items())),
         f"{sum(corrections.values()) - corrections.get(0, 0)} of {sum(corrections.values())} drafts went back"),
        ("candidates without a draft", str(figures["candidates_without_draft"]), "named in reports/failures.csv"),
    ]  # fmt: skip
    if judge := figures.get("judge"):
        note = (
            f"{judge['drafts']} drafts; two readings of one draft differ by {judge['mean_disagreement']:.3f} on average"
        )
        rows.append(("judge's mean score", f"{judge['mean_score']:.3f}", note))
    if blind := figures.get("blind"):
        note = "correct before the teacher saw the truth; the others are the hard samples (blind_answer in data/draft)"
        rows.append(("blind verdicts", f"{blind['right']} of {blind['samples']}", note))
    return rows


def _pick_rejected(table: pl.DataFrame) -> pl.DataFrame:
    """Pick a few rejected drafts so that every gate that a draft fails first is represented."""
    gate = pl.col("violations").list.first().struct.field("gate")
    return (
        table.sort("draft_id")
        .with_columns(gate.alias("gate"))
        .with_columns(pl.int_range(pl.len()).over("gate").alias("turn"))
        .sort("turn", "gate", maintain_order=True)
        .head(MAX_REJECTED)
        .sort("gate", "draft_id")
        .drop("gate", "turn")
    )


def _clean_docstring(text: str | None) -> str:
    line = " ".join((text or "").split())
    return re.sub(r"``(.+?)``", r"\1", line)


def _describe_leakage(workspace: Workspace, index: pl.DataFrame) -> dict[str, Any]:
    facts = read_json(workspace.select / "leakage.json", "indus-cot select")
    samples = SAMPLE.read(workspace.select / "sample.parquet").select("sample_id", "source_set", "part_id")
    parts = (
        index.select("sample_id", "split")
        .join(samples, on="sample_id", how="inner")
        .group_by("source_set", "part_id")
        .agg(pl.col("split").n_unique().alias("splits"))
        .sort("source_set", "part_id")
    )
    straddling = parts.filter(pl.col("splits") > 1)
    return {
        "leakage": facts,
        "dropped_names": sorted({row["category"] for row in facts["dropped_categories"]}),
        "copied": len({row["sample_id"] for row in facts["copies"]}),
        "copies_shown": MAX_COPIES,
        "parts": {
            "total": len(parts),
            "straddling": [f"{name}/{part}" for name, part, _ in straddling.iter_rows()],
        },
    }


def _describe_reviews(index: pl.DataFrame) -> dict[str, Any]:
    looked = int((index["review_status"] != "auto").sum())
    total = len(index)
    if looked == 0:
        statement = (
            f"No person has reviewed any of these {total:,} trajectories. They passed the gates and were accepted "
            "by policy; review_status of each row is auto."
        )
    elif looked < total:
        statement = f"A person has reviewed {looked:,} of {total:,} trajectories; the others were accepted by policy."
    else:
        statement = f"A person has reviewed each of these {total:,} trajectories."
    teachers = index.group_by("teacher", "prompt_version", "toolbox_version").len().sort("teacher", "prompt_version")
    return {
        "looked": looked,
        "review_statement": statement,
        "reviews": figures.count_values(index, "review_status"),
        "licences": figures.count_values(index, "licence"),
        "teachers": [
            f"{teacher}, prompt {prompt}, toolbox {toolbox} ({count:,})"
            for teacher, prompt, toolbox, count in teachers.iter_rows()
        ],
        "cost": float(index["cost_usd"].sum()),
    }


def _write_lead(context: dict[str, Any]) -> str:
    splits = {row.name: row.total for row in context["by_split"]}
    people = "No person has reviewed them." if not context["looked"] else ""
    stand_in = [item for item in context["pulls"] if item.role == "train" and item.synthetic]
    source = " The images are synthetic stand-ins, rendered for the demonstration." if stand_in else ""
    return (
        f"Each trajectory inspects one image step by step: a thought, a tool call, the tool's result, and finally a "
        f"verdict. The images show {format_count(context['category_count'], 'category', 'categories')}. "
        f"{splits.get('train', 0):,} trajectories are for training, "
        f"{splits.get('validation', 0):,} for validation.{source} {people}"
    ).strip()


def _make_tiles(context: dict[str, Any]) -> list[Tile]:
    total, anomalous, gates = context["total"], context["anomalous"], context["gates"]
    without = context["tools"][-1].trajectories
    straddling = len(context["parts"]["straddling"])
    return [
        Tile("trajectories", f"{total:,}", f"of {gates['samples']:,} selected samples"),
        Tile("show a defect", f"{100 * anomalous / total:.0f} %", f"{anomalous:,} Yes, {total - anomalous:,} No"),
        Tile("categories", f"{context['category_count']}", f"in {format_count(context['view_count'], 'view')}"),
        Tile("tool calls each", f"{context['calls_mean']:.2f}", f"{100 * without / total:.0f} % answer without a tool"),
        Tile(
            "drafts passed",
            f"{100 * gates['passed'] / gates['drafts']:.0f} %" if gates["drafts"] else "–",
            f"{gates['passed']:,} of {gates['drafts']:,}",
        ),
        Tile(
            "categories dropped",
            f"{len(context['dropped_names'])}",
            f"and {format_count(context['copied'], 'copy', 'copies')} of evaluation images",
        ),
        Tile("parts in both splits", f"{straddling}", f"of {context['parts']['total']:,}"),
        Tile("reviewed by a person", f"{context['looked']:,}", f"of {total:,}"),
    ]


def _make_gallery(workspace: Workspace, chosen: pl.DataFrame, workers: int) -> list[View]:
    locations = [RowLocation(shard, row) for shard, row in chosen.select("shard", "row").iter_rows()]
    room = PAGE_BYTES * 3 / 4 - THUMBNAIL_BYTES * len(chosen)
    unit = room / (QUERY_WEIGHT * len(chosen) + int(chosen["images"].sum()))
    limits = [int(min(MAX_IMAGE_BYTES, max(unit * weight, 3000))) for weight in (QUERY_WEIGHT, 1)]
    rows = read_rows(workspace.indus_cot, locations)
    shown = thread_map(lambda row: (row.id, make_view(row, *limits)), rows, workers)
    views = dict(track(shown, "report", len(chosen)))
    return [views[name] for name in chosen["id"]]


def _count_facets(gallery: Sequence[View]) -> dict[str, list[tuple[str, str, int]]]:
    """Return the choices of each filter: value, text, and number of trajectories in the gallery."""

    def counted(values: Sequence[str]) -> list[tuple[str, str, int]]:
        return [(value, value.replace("_", " "), count) for value, count in sorted(Counter(values).items())]

    rows = [view.row for view in gallery]
    tools = Counter(tool for row in rows for tool in set(row.tool_calls))
    return {
        "answer": counted([row.answer for row in rows]),
        "category": counted([row.category for row in rows]),
        "type": counted([row.defect_type for row in rows if row.defect_type]),
        "view": counted([row.view for row in rows]),
        "split": counted([row.split for row in rows]),
        "set": counted([row.source_set for row in rows]),
        "tool": [(name, name, tools[name]) for name in sorted(tools)]
        + [("none", figures.NO_TOOL, sum(not row.tool_calls for row in rows))],
    }
