"""What must hold before a corpus is published."""

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.corpus.writing import SPLITS
from cot_builder.progress import track
from cot_builder.publishing.configs import combined
from cot_builder.publishing.sources import _shards
from cot_builder.storage.output import read_manifest, write_text
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError

SMALL = (
    "id", "sample_id", "source_set", "category", "view", "image.path", "image_sha256", "region", "messages", "tools",
    "trajectory", "answer", "boxes", "defect_type", "review_status", "reviewers", "teacher", "prompt_version",
    "toolbox_version", "licence",
)  # fmt: skip


HASHES = "shards.json"


def _missing(shard: Path) -> list[str]:
    """Columns that a shard of a corpus has and this one does not."""
    try:
        names = set(pq.read_schema(shard).names)
    except (OSError, pa.ArrowException) as error:
        raise IndusCotError(
            f"{shard}: damaged parquet file ({error}); run `indus-cot repro assemble`, which writes it again"
        ) from error
    return sorted({name.partition(".")[0] for name in (*SMALL, "images")} - names)


def _validated(workspace: Workspace) -> dict[str, int]:
    """Rows by split of a corpus that `assemble` has validated and nobody changed the number of.

    Neither drafts nor reviews have overtaken it: what an expert rejected since would leave as unseen.
    """
    corpus = workspace.indus_cot
    again = "run `indus-cot repro assemble`, which validates every row"
    if not _shards(corpus):
        raise IndusCotError(f"{corpus}: no corpus is there; {again}")
    try:
        manifest = read_manifest(corpus)
    except ValueError as error:
        raise IndusCotError(f"{corpus / 'manifest.json'}: is no JSON ({error}); {again}") from error
    if manifest.get("stage") != "assemble":
        raise IndusCotError(f"{corpus}: was not validated: its manifest is not one of assemble; {again}")
    due = {split: int(manifest["counts"].get(split, 0)) for split in SPLITS}
    found: Counter[str] = Counter()
    for path in _shards(corpus):
        if missing := _missing(path):
            raise IndusCotError(f"{path}: has no column {', '.join(missing)}; {again}")
        found[path.name.partition("-")[0]] += pq.read_metadata(path).num_rows
    if dict(+found) != {name: count for name, count in due.items() if count}:
        raise IndusCotError(
            f"{corpus}: holds {dict(found)} rows, its manifest says {due}: it was changed after it was validated; "
            + again
        )
    for name, path in (("trajectory", workspace.draft / "trajectory.parquet"), ("reviews", workspace.reviews)):
        if path.is_file() and manifest.get("inputs", {}).get(name) != file_hash(path):
            raise IndusCotError(
                f"{corpus}: was assembled from another {path.name} than lies in {path.parent} now; run "
                "`indus-cot repro assemble`, which takes up what was drafted and reviewed since"
            )
    return due


def _inputs(workspace: Workspace) -> dict[str, str]:
    inputs = {"corpus": file_hash(workspace.indus_cot / "manifest.json")}
    # A changed shard has another time; hashing the images here would read everything twice.
    stats = [(path.name, path.stat()) for path in _shards(workspace.indus_cot)]
    inputs["shards"] = combined(f"{name} {_stamp(stat)}" for name, stat in stats)
    for name, path in {
        "supervision": workspace.select / "supervision.parquet",
        "drafts": workspace.draft / "trajectory.parquet",
        "rejected": workspace.draft / "rejected.parquet",
        "reviews": workspace.reviews,
    }.items():
        if path.is_file():
            inputs[name] = file_hash(path)
    return inputs


def _stamp(stat: os.stat_result) -> str:
    """Another one where a file was written since: its time of change cannot be set back as that of writing can."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _unchanged(workspace: Workspace) -> None:
    """Hold every shard of the corpus against the hash that `assemble` gave it; a file that was hashed once is known.

    Raises:
        IndusCotError: a shard is another one, or its manifest has no hash of it.
    """
    due = read_manifest(workspace.indus_cot).get("outputs", {})
    kept = workspace.root / ".indus-cot" / HASHES
    known: dict[str, list[str]] = json.loads(kept.read_text()) if kept.is_file() else {}
    found: dict[str, list[str]] = {}
    for path in track(_shards(workspace.indus_cot), "check the corpus (shards)"):
        stamp, before = _stamp(path.stat()), known.get(path.name, ["", ""])
        found[path.name] = before if before[0] == stamp else [stamp, file_hash(path)]
        if due.get(f"data/{path.name}") != found[path.name][1]:
            raise IndusCotError(
                f"{path}: has another sha256 than when it was validated, or none is recorded: it was changed after it "
                "was validated; run `indus-cot repro assemble`, which validates every row"
            )
    if found != known:
        write_text(kept, json.dumps(found, indent=1) + "\n")
