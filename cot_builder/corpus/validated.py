"""Check that a corpus is validated, unchanged and up to date, and identify the corpus of a model."""

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
    """Check that `assemble` validated the corpus and that its shards still have the same number of rows.

    Reads only the footers of the shards; :func:`check_bytes` compares the bytes.

    Returns:
        Number of rows by split.

    Raises:
        IndusCotError: there is no corpus, it was not validated, or it was changed afterwards.
    """
    if not corpus.is_dir():
        raise IndusCotError(f"{corpus}: there is no corpus; {ASSEMBLE_HINT}")
    manifest = read_manifest(corpus)
    if manifest.get("stage") != STAGE:
        raise IndusCotError(
            f"{corpus}: was not validated: its manifest is from the stage {manifest.get('stage')!r}, not from {STAGE}, "
            f"which validates a corpus; run `indus-cot repro {STAGE}`"
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
    """Compare the number of rows by split with the manifest; a split without rows may be missing.

    Raises:
        IndusCotError: the numbers differ.
    """
    if {name: count for name, count in found.items() if count} != {name: count for name, count in due.items() if count}:
        raise IndusCotError(
            f"{corpus}: contains {dict(found)} rows, but its manifest lists {dict(due)}: it was changed after it was "
            f"validated; {ASSEMBLE_HINT}"
        )


def check_up_to_date(workspace: Workspace) -> None:
    """Check that drafts and reviews have not changed since the corpus was assembled.

    Raises:
        IndusCotError: they have changed, so the corpus may contain drafts that an expert has rejected since.
    """
    inputs = read_manifest(workspace.indus_cot).get("inputs", {})
    for name, path in (("trajectory", workspace.draft / "trajectory.parquet"), ("reviews", workspace.reviews)):
        if path.is_file() and inputs.get(name) != file_hash(path):
            raise IndusCotError(
                f"{workspace.indus_cot}: was assembled before {path} changed; run `indus-cot repro assemble`, which "
                "includes the latest drafts and reviews"
            )


def check_bytes(workspace: Workspace) -> None:
    """Compare the sha256 of every shard with the one that `assemble` recorded; hash an unchanged file only once.

    Raises:
        IndusCotError: a shard has another hash, or the manifest has no hash for it.
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
                f"{path}: its sha256 is not the one recorded at validation: the file was changed after it was "
                f"validated; {ASSEMBLE_HINT}"
            )
    if found != known:
        write_text(kept, json.dumps(found, indent=1) + "\n")


def read_change_stamp(path: Path) -> str:
    """Return a text that changes whenever the file is written; it includes ctime, which programs cannot set back."""
    found: os.stat_result = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def corpus_sha256(corpus: Path) -> str:
    """Return the hash of the manifest, by which trainings and evaluations identify a corpus."""
    return file_hash(corpus / "manifest.json")


def hash_shards(corpus: Path) -> dict[str, str]:
    """Return the sha256 of every shard by file name; empty if there is no corpus."""
    return {path.name: file_hash(path) for path in list_shards(corpus)}


def identify_corpus(inputs: Mapping[str, Any], corpus: Path) -> tuple[str, bool]:
    """Identify the corpus that a model was trained on.

    Args:
        inputs: ``inputs`` of the model's manifest. GRPO records the hash of the corpus' manifest, SFT those of its
            shards.
        corpus: Folder of the current corpus.

    Returns:
        The hash of the corpus, and whether it is the one in the folder ``corpus``.
    """
    now = corpus_sha256(corpus) if (corpus / "manifest.json").is_file() else None
    if "corpus" in inputs:
        return str(inputs["corpus"]), inputs["corpus"] == now
    shards = {name: digest for name, digest in inputs.items() if name.endswith(".parquet")}
    if now is not None and shards and shards == hash_shards(corpus):
        return now, True
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest(), False
