"""Builds a small corpus and a model smaller than `tiny`, so that stages train in seconds on one core."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cot_builder.params import Params
from cot_builder.storage.workspace import Workspace
from tests.helpers import small_corpus
from train import corpus, tiny

QUICK: dict[str, Any] = {
    "steps": 4, "batch": 1, "accumulation": 1, "save_steps": 2, "log_steps": 1, "warmup": 0.0, "learning_rate": 0.003,
}  # fmt: skip
SIZES = {"HIDDEN": 64, "HEADS": 2, "VISION_LAYERS": 2, "SIDE": 64}
"""Sizes of the tests' model, instead of those of `tiny`."""


def build(root: Path) -> Workspace:
    """Build a workspace whose corpus has 24 trajectories of 0 to 4 calls, and ``tiny``, a model with its vocabulary."""
    workspace = small_corpus.build(root)
    build_model(root / "tiny", corpus.iter_texts(corpus.read(workspace.indus_cot)["train"]))
    return workspace


def build_model(folder: Path, texts: Any, seed: int = 0) -> None:
    """Build a model like `tiny`, with fewer and narrower layers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(tiny, name, size)
        # Make the system prompts single tokens: they are most of a chat and would take most of the time.
        tiny.build(folder, texts, seed, tiny.list_systems())


def params(workspace: Workspace, sft: dict[str, Any] | None = None, **train: Any) -> Params:
    """Return parameters of a run of four steps on the workspace's model."""
    base = small_corpus.params()
    return base.model_copy(
        update={
            "train": base.train.model_copy(update={"model": str(workspace.root / "tiny"), **train}),
            "sft": base.sft.model_copy(update=QUICK | (sft or {})),
        }
    )


def change_rows(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the training rows of a corpus without updating its manifest."""
    shard = folder / "data" / "train-00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), shard)


def change_manifest(folder: Path, **change: Any) -> None:
    """Change entries of a corpus' manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
