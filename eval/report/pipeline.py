"""Reads what the stages recorded (manifests, left-out items, gates and leakage) for the report."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cot_builder.benchmarks.benchmark import SYNTHETIC
from cot_builder.params import Params
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

EXAMPLES = 8


@dataclass(frozen=True)
class LeftOut:
    """Items that a stage left out (or accepted with a warning) for one reason, with a few examples."""

    reason: str
    count: int
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Stage:
    """One stage's manifest as the page shows it."""

    name: str
    about: str
    seconds: float
    counts: list[tuple[str, str]]
    left_out: list[LeftOut]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class PulledSet:
    """One pulled set: its counts compared with the published ones."""

    name: str
    title: str
    role: str
    source: str
    synthetic: bool
    seconds: float
    samples: int
    cells: list[tuple[str, int, int | None]]
    """(split and label, found, published)."""
    complete: bool | None
    """Whether all counts are the published ones; None if none are published, or the set is synthetic."""
    share: float | None
    """Share of the published samples that were found."""
    duplicates: Mapping[str, int]
    warnings: list[LeftOut]
    left_out: list[LeftOut]
    licence: str
    redistribution: str
    citation: str
    homepage: str
    versions: Mapping[str, str] = field(default_factory=dict)


ABOUT = {
    "select": "Picks the training pool: no category and no near-duplicate of an evaluation set, only visible defects, "
    "balanced, split by physical part.",
    "patch": "Cuts local patches, each with its box on the original image.",
    "prior": "Describes the normal part of each category and view, measured on normal training images.",
    "draft": "The teacher inspects each sample with the real tools; gates check every draft against the truth.",
    "assemble": "Applies the review policy, validates every row and writes the corpus.",
    "sft": "Fine-tunes a model on the corpus; only the policy's own tokens bear loss.",
    "grpo": "Trains the model further by reinforcement learning, with the real tools in the loop.",
}


def read_stages(workspace: Workspace) -> list[Stage]:
    """Return the stages after pull, in order; trainings are included only if they have run.

    Raises:
        IndusCotError: a stage before the trainings has not run.
    """
    folders = {name: getattr(workspace, name) for name in ("select", "patch", "prior", "draft")}
    trained = {path.name: path for path in (workspace.sft, workspace.grpo) if (path / "manifest.json").is_file()}
    return [
        _read_stage(name, folder) for name, folder in {**folders, "assemble": workspace.indus_cot, **trained}.items()
    ]


def _read_stage(name: str, folder: Path) -> Stage:
    manifest = read_manifest(folder)
    return Stage(
        name,
        ABOUT[name],
        manifest["seconds"],
        [(key, _format_counts(value)) for key, value in manifest["counts"].items()],
        _group_by_reason(folder / "left_out.csv"),
        manifest["versions"],
    )


def read_pulled_sets(params: Params, workspace: Workspace) -> list[PulledSet]:
    """Return every set of ``params.pull``, training sets first.

    Raises:
        IndusCotError: a set has not been pulled.
    """
    order = sorted(params.pull, key=lambda name: params.pull[name].role != "train")
    return [_read_pulled_set(name, params, workspace.pull(name)) for name in order]


def _read_pulled_set(name: str, params: Params, folder: Path) -> PulledSet:
    settings, manifest = params.pull[name], read_manifest(folder)
    counts = manifest["counts"]
    found, published, benchmark = counts["by_split_label"], counts["published"], counts["benchmark"]
    synthetic = settings.source == SYNTHETIC
    cells = [(cell, found.get(cell, 0), published.get(cell)) for cell in sorted({*found, *published})]
    wanted = sum(published.values())
    sources = [settings.source] if isinstance(settings.source, str) else settings.source
    return PulledSet(
        name=name,
        title=benchmark["title"],
        role=settings.role,
        # Show only the last part: reports are shared, and the path of a local folder is private.
        source=", ".join(source.rstrip("/").rsplit("/", 1)[-1] for source in sources),
        synthetic=synthetic,
        seconds=manifest["seconds"],
        samples=counts["samples"],
        cells=cells,
        complete=None if synthetic or not published else all(have == want for _, have, want in cells),
        share=None if synthetic or not wanted else sum(found.get(cell, 0) for cell in published) / wanted,
        duplicates=counts["duplicates"],
        warnings=_group_by_reason(folder / "warnings.csv"),
        left_out=_group_by_reason(folder / "left_out.csv"),
        licence=benchmark["licence"],
        redistribution=benchmark["redistribution"],
        citation=benchmark["citation"],
        homepage=benchmark["homepage"],
        versions=manifest["versions"],
    )


def merge_versions(found: list[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return each library with the versions that the stages ran under; several if they differ."""
    names = dict.fromkeys(name for entry in found for name in entry)
    return {name: sorted({entry[name] for entry in found if name in entry}) for name in names}


def read_gates(workspace: Workspace) -> dict[str, Any]:
    """Read ``reports/gates.json``.

    Raises:
        IndusCotError: it is missing or unreadable.
    """
    return read_json(workspace.reports / "gates.json", "indus-cot draft")


def read_json(path: Path, maker: str) -> dict[str, Any]:
    """Read a JSON file that the command ``maker`` writes.

    Raises:
        IndusCotError: it is missing or unreadable; the message names the command.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IndusCotError(f"{path}: file is missing; run `{maker}` first, or `indus-cot repro`") from None
    except ValueError as error:
        raise IndusCotError(f"{path}: invalid JSON ({error}); run `{maker}` again") from error


def _group_by_reason(path: Path) -> list[LeftOut]:
    """Group a CSV of reason, item and detail by reason, the most frequent first; empty if the file does not exist."""
    if not path.is_file():
        return []
    counts: dict[str, int] = defaultdict(int)
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            counts[row["reason"]] += 1
            if counts[row["reason"]] <= EXAMPLES:
                examples[row["reason"]].append((row["item"], row["detail"]))
    return [
        LeftOut(reason, count, examples[reason]) for reason, count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _format_counts(value: Any) -> str:
    """Format a count, or nested counts, as one line."""
    if isinstance(value, Mapping):
        return (
            ", ".join(f"{str(key).replace('_', ' ')} {_format_counts(item)}" for key, item in value.items()) or "none"
        )
    if isinstance(value, list):
        return ", ".join(_format_counts(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)
