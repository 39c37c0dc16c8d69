"""Read the normalcy priors that stages, rollouts and evaluation use, and the normal images behind them."""

import hashlib
from collections.abc import Collection, Sequence

import polars as pl

from cot_builder.params import Params
from cot_builder.storage.output import Output
from cot_builder.storage.samples import read_samples
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.prior import PRIOR
from schemas.sample import SAMPLE, Sample
from schemas.selection import SPLIT
from schemas.supervision import SUPERVISION

MACHINE_FILE = "machine.parquet"
"""The priors before the experts' edits, as shown for review."""
Priors = dict[tuple[str, str], str]
"""Text by (category, view)."""
Groups = dict[tuple[str, str, str], list[Sample]]
"""Samples by (set, category, view)."""


def read_priors(workspace: Workspace, sets: Collection[str]) -> Priors:
    """Read the normalcy texts of the given sets; training must not pass an evaluation set."""
    table = PRIOR.read(workspace.prior / "prior.parquet").filter(pl.col("source_set").is_in(list(sets)))
    shared = table.filter(table.select("category", "view").is_duplicated())
    if not shared.is_empty():
        first = shared.row(0, named=True)
        raise IndusCotError(
            f"prior: several training sets have the category {first['category']!r}, view {first['view']!r} "
            f"({', '.join(sorted(set(shared['source_set'])))}); rename the category in all but one of them"
        )
    return {(row["category"], row["view"]): row["text"] for row in table.iter_rows(named=True)}


def read_normal_samples(params: Params, workspace: Workspace, output: Output) -> Groups:
    """Read the normal samples of the training splits by (set, category, view).

    A group without normal samples is recorded in ``left_out.csv``.
    """
    groups: Groups = {}
    for name, source in params.pull.items():
        supervision = SUPERVISION.read(workspace.pull(name) / "supervision.parquet").select("sample_id", "label")
        if source.role == "train":
            splits = SPLIT.read(workspace.select / "split.parquet").rename({"split": "chosen"})
            table = SAMPLE.read(workspace.select / "sample.parquet").filter(pl.col("source_set") == name)
            table = table.join(splits, on="sample_id")
            usable = pl.col("chosen") == "train"
        else:
            table = read_samples(workspace, name)
            usable = pl.col("split") == "train"
        table = table.join(supervision, on="sample_id").sort("category", "view", "sample_id")
        usable &= pl.col("label") == "normal"
        for (category, view), rows in table.group_by("category", "view", maintain_order=True):
            chosen = rows.filter(usable).select(list(SAMPLE.dtypes))
            if chosen.is_empty():
                # Caused by the benchmark or by the random selection, not by damage: a strict run continues.
                output.left_out.append(("no normal image in the training split", f"{name}/{category}/{view}", ""))
            else:
                groups[name, str(category), str(view)] = SAMPLE.records(chosen)
    return groups


def draw_samples(group: Sequence[Sample], most: int, seed: int) -> list[Sample]:
    """Draw up to ``most`` samples, pseudo-randomly by hash, so that low file numbers are not preferred."""
    drawn = sorted(group, key=lambda item: hashlib.sha256(f"{seed}/{item.sample_id}".encode()).digest())[:most]
    # Sort in storage order, so that each shard is read once.
    return sorted(drawn, key=lambda item: (item.shard, item.row, item.sample_id))
