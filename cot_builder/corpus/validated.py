"""Is this the validated corpus? Its manifest, its rows, its bytes, and what it was assembled from."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cot_builder.corpus.reading import SPLITS, find_missing_columns, list_shards
from cot_builder.progress import track
from cot_builder.storage.output import read_manifest, write_text
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError

STAGE = "assemble"
HASHES_FILE = "shards.json"
ASSEMBLE_HINT = "run `indus-cot repro assemble`, which validates every row"


def check_validated(corpus: Path) -> dict[str, int]:
    """Rows by split of a corpus that `assemble` has validated, and whose shards still have as many rows.

    Only the footers of the shards are read; :func:`check_bytes` compares the bytes.

    Raises:
        IndusCotError: no corpus is there, it was not validated, or it was changed afterwards.
    """
    if not corpus.is_dir():
        raise IndusCotError(f"{corpus}: no corpus is there; {ASSEMBLE_HINT}")
    manifest = read_manifest(corpus)
    if manifest.get("stage") != STAGE:
        raise IndusCotError(
            f"{corpus}: was not validated: its manifest is of {manifest.get('stage')!r}, not of {STAGE}, which "
            f"validates a corpus; run `indus-cot repro {STAGE}`"
        )
    due = {split: int(manifest["counts"].get(split, 0)) for split in SPLITS}
    found: Counter[str] = Counter()
    for path in list_shards(corpus):
        if missing := find_missing_columns(path):
            raise IndusCotError(f"{path}: has no column {', '.join(missing)}; {ASSEMBLE_HINT}")
        found[path.name.partition("-")[0]] += pq.read_metadata(path).num_rows
    check_counts(corpus, found, due)
    return due


def check_counts(corpus: Path, found: Mapping[str, int], due: Mapping[str, int]) -> None:
    """Compare rows by split with those of the manifest; a split without rows may be absent.

    Raises:
        IndusCotError: they differ.
    """
    if {name: count for name, count in found.items() if count} != {name: count for name, count in due.items() if count}:
        raise IndusCotError(
            f"{corpus}: holds {dict(found)} rows, its manifest says {dict(due)}: it was changed after it was "
            f"validated; {ASSEMBLE_HINT}"
        )


def check_up_to_date(workspace: Workspace) -> None:
    """Compare drafts and reviews with those that the corpus was assembled from.

    Raises:
        IndusCotError: others lie there now: the corpus may hold what an expert has rejected since.
    """
    inputs = read_manifest(workspace.indus_cot).get("inputs", {})
    for name, path in (("trajectory", workspace.draft / "trajectory.parquet"), ("reviews", workspace.reviews)):
        if path.is_file() and inputs.get(name) != file_hash(path):
            raise IndusCotError(
                f"{workspace.indus_cot}: was assembled from another {path.name} than lies in {path.parent} now; run "
                "`indus-cot repro assemble`, which takes up what was drafted and reviewed since"
            )


def check_bytes(workspace: Workspace) -> None:
    """Compare the sha256 of every shard with the one that `assemble` gave it; an unchanged file is hashed once.

    Raises:
        IndusCotError: a shard is another one, or its manifest has no hash of it.
    """
    due = read_manifest(workspace.indus_cot).get("outputs", {})
    kept = workspace.root / ".indus-cot" / HASHES_FILE
    known: dict[str, list[str]] = json.loads(kept.read_text()) if kept.is_file() else {}
    found: dict[str, list[str]] = {}
    for path in track(list_shards(workspace.indus_cot), "check the corpus (shards)"):
        stamp, before = read_change_stamp(path), known.get(path.name, ["", ""])
        found[path.name] = before if before[0] == stamp else [stamp, file_hash(path)]
        if due.get(f"data/{path.name}") != found[path.name][1]:
            raise IndusCotError(
                f"{path}: has another sha256 than when it was validated, or none is recorded: it was changed after it "
                f"was validated; {ASSEMBLE_HINT}"
            )
    if found != known:
        write_text(kept, json.dumps(found, indent=1) + "\n")


def read_change_stamp(path: Path) -> str:
    """A text that differs once the file was written again: its time of change cannot be set back."""
    found: os.stat_result = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def corpus_sha256(corpus: Path) -> str:
    """The hash by which trainings and evaluations name a corpus: that of its manifest."""
    return file_hash(corpus / "manifest.json")


def hash_shards(corpus: Path) -> dict[str, str]:
    """sha256 of every shard by file name; empty where no corpus is."""
    return {path.name: file_hash(path) for path in list_shards(corpus)}


def identify_corpus(inputs: Mapping[str, Any], corpus: Path) -> tuple[str, bool]:
    """The corpus that a model was trained on, by its hash, and whether it is the one in the folder ``corpus``.

    Args:
        inputs: Of the model's manifest: GRPO names the corpus by the hash of its manifest, SFT by those of its shards.
        corpus: The folder that may hold it.
    """
    now = corpus_sha256(corpus) if (corpus / "manifest.json").is_file() else None
    if "corpus" in inputs:
        return str(inputs["corpus"]), inputs["corpus"] == now
    shards = {name: digest for name, digest in inputs.items() if name.endswith(".parquet")}
    if now is not None and shards and shards == hash_shards(corpus):
        return now, True
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest(), False
