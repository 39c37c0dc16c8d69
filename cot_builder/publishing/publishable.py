"""Build the files of a published corpus: configurations in small shards, and an index of all rows.

A shard holds the few rows whose ids (hashes) begin with the same bits. A changed row therefore changes only one file of
a configuration, independent of rows added or removed elsewhere, and equal rows give equal bytes.
"""

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cot_builder.corpus.reading import SPLITS
from cot_builder.corpus.reviews import read_reviews
from cot_builder.corpus.validated import check_bytes, read_change_stamp
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.publishing import secrets
from cot_builder.publishing.configs import Config, combine_hashes, row_hash
from cot_builder.publishing.index import BATCH, INDEX, INDEX_SCHEMA, INDEXED_COLUMNS, make_index_row, read_split
from cot_builder.publishing.preconditions import check_corpus, corpus_inputs
from cot_builder.publishing.preference import find_pairs, make_preference_row, open_observation_images
from cot_builder.publishing.pseudonyms import make_pseudonym, read_salt
from cot_builder.publishing.review_rows import make_review_row, select_current_reviews
from cot_builder.publishing.rows import RowContext, check_row, make_learner_tables, make_references, make_row_context
from cot_builder.publishing.scanning import make_scanned_table, scan_batch
from cot_builder.publishing.shards import bucket_of, choose_shard_bits, shard_name, write_shard
from cot_builder.publishing.sources import read_sources
from cot_builder.storage.code import compute_code_key
from cot_builder.storage.output import Output, read_manifest, read_versions, stage_output
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.review import Review
from schemas.selection import SPLIT
from schemas.trajectory import Trajectory

INDEX_BATCH = 4096
MAX_PENDING = 12
"""Maximum number of queued shards; with fewer, the writers idle while the next batch is read."""


def build_shards(params: Params, workspace: Workspace, bits_before: int | None = None) -> Path:
    """Write ``data/publish`` unless it is up to date; returns the folder.

    Args:
        params: The parameters.
        workspace: The project.
        bits_before: Number of shard bits of the published version; kept while shards stay small.

    Raises:
        IndusCotError: the corpus is missing, not validated or changed since; a licence forbids the value of
            ``publish.images``; a row holds a secret or supervision.
    """
    counts = check_corpus(workspace)
    shown = read_sources(params, workspace.indus_cot)
    bits = choose_shard_bits(counts, bits_before)
    reviews, salt = read_reviews(workspace), read_salt(workspace)
    expression = secrets.build_pattern(workspace.root, params)
    request = {
        **params.publish.model_dump(include={"images", "require_review", "licence"}),
        "bits": bits,
        # A change of code alters the bytes even if no version changes.
        "code": compute_code_key(__name__),
        # The scanned expression contains secrets, so only its keyed hash is stored.
        "looked_for": make_pseudonym(salt, expression, 64),
        "sets": {name: [source.facts.licence, source.embedded, source.obtain] for name, source in shown.items()},
    }
    inputs = corpus_inputs(workspace)
    if _is_built(workspace.publish, request, inputs):
        return workspace.publish
    check_bytes(workspace)
    with stage_output(workspace.publish, stage="publish", params=request, inputs=inputs) as output:
        context = make_row_context(params, workspace, shown, expression, salt)
        output.counts |= _ShardBuilder(context, bits, output, reviews).run(counts)
        output.counts["written"] = _stamp_files(output.path)
    return workspace.publish


def check_publishable(params: Params, workspace: Workspace) -> None:
    """Check the preconditions before anything is written.

    Raises:
        IndusCotError: as :func:`build`, for the corpus as a whole and for licences.
    """
    check_corpus(workspace)
    read_sources(params, workspace.indus_cot)


def _stamp_files(folder: Path) -> str:
    """Stamp of all row files in the folder; differs if one of them has changed."""
    paths = sorted(folder.rglob("*.parquet"))
    return combine_hashes(f"{path.relative_to(folder).as_posix()} {read_change_stamp(path)}" for path in paths)


def _is_built(folder: Path, request: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    if not (folder / "manifest.json").is_file():
        return False
    made = read_manifest(folder)
    same = json.loads(json.dumps([request, inputs, read_versions()], default=str))
    if [made.get("params"), made.get("inputs"), made.get("versions")] != same:
        return False
    return bool(made["counts"].get("written") == _stamp_files(folder))


class _ShardBuilder:
    """Reads the corpus once and writes shards, index and reviews."""

    def __init__(self, context: RowContext, bits: int, output: Output, reviews: Sequence[Review]) -> None:
        self.context = context
        self.bits = bits
        self.output = output
        self.counts: Counter[str] = Counter()
        self._pairs = find_pairs(context.workspace, reviews, self.counts)
        self.reviews = select_current_reviews(context.workspace, reviews, self.counts)
        self._observations = open_observation_images(context.workspace)
        self._reviewed: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._pending: deque[Future[None]] = deque()
        self._index: list[dict[str, Any]] = []

    def run(self, due: Mapping[str, int]) -> dict[str, Any]:
        """Write everything; returns counts."""
        with (
            ThreadPoolExecutor(self.context.params.compute.workers) as self._pool,
            pq.ParquetWriter(self.output.path / INDEX, INDEX_SCHEMA, compression="zstd") as self._indexed,
        ):
            for split in SPLITS:
                if due.get(split):
                    self._write_split(split, due[split])
            self._flush_index()
            self._write_reviews()
            while self._pending:
                self._pending.popleft().result()
        return {**self.counts, "bits": self.bits}

    def _write_split(self, split: str, count: int) -> None:
        """Prepare each batch as a whole, then split it where the leading bits of the ids change."""
        held: dict[Config, list[pa.Table]] = {}
        bucket, last = -1, ""
        batches = read_split(self.context.workspace.indus_cot, split)
        for batch in track(batches, f"publishable {split} (batches)", -(-count // BATCH)):
            scan_batch(batch, split, self.context.expression)
            ids = batch.column("id").to_pylist()
            for before, identity in pairwise([last, *ids]):
                if identity <= before:
                    raise IndusCotError(
                        f"{self.context.workspace.indus_cot}, row {identity}: is out of order or duplicated: the "
                        "corpus was made by an older version; run `indus-cot repro assemble`"
                    )
            last = ids[-1]
            ready = self._convert_batch(batch, split)
            start = 0
            for found, run in groupby(ids, lambda identity: bucket_of(identity, self.bits)):
                if found != bucket:
                    self._submit_shard(held, split, bucket)
                    held, bucket = {}, found
                size = len(list(run))
                for config, (table, starts) in ready.items():
                    first, end = starts[start], starts[start + size]
                    if end > first:
                        held.setdefault(config, []).append(table.slice(first, end - first))
                start += size
        self._submit_shard(held, split, bucket)

    def _convert_batch(self, batch: pa.RecordBatch, split: str) -> dict[Config, tuple[pa.Table, list[int]]]:
        """Rows of a batch by configuration, with the offsets at which the rows of each trajectory begin and end."""
        context, images = self.context, batch.column("images")
        rows = batch.select([name.partition(".")[0] for name in INDEXED_COLUMNS]).to_pylist()
        paths = iter(pc.struct_field(images.flatten(), "path").to_pylist())
        references: list[list[dict[str, Any]]] = []
        pairs: list[dict[str, Any]] = []
        starts = [0]
        for number, (row, count) in enumerate(zip(rows, images.value_lengths().to_pylist(), strict=True)):
            where = f"{context.workspace.indus_cot}, row {row['id']}"
            trajectory = check_row(context, row, where)
            names = list(islice(paths, count))
            references.append(make_references(row, trajectory, names, images[number] if row["region"] else None, where))
            due = self._pairs.get(row["id"], []) + self._pairs.get(row["sample_id"], [])
            for place, pair in enumerate(pair for pair in due if pair.trajectory != trajectory):
                shown = (images[number], references[-1], place)
                pairs.append(make_preference_row(context, self._observations, row, pair, trajectory, *shown))
            self._add_to_index(row, split, trajectory, pairs[starts[-1] :])
            starts.append(len(pairs))
        self.counts["rows"] += len(rows)
        self.counts["embedded"] += sum(context.sources[row["source_set"]].embedded for row in rows)
        each = list(range(len(rows) + 1))
        ready: dict[Config, tuple[pa.Table, list[int]]] = {
            config: (table, each) for config, table in make_learner_tables(context, batch, rows, references).items()
        }
        if pairs:
            ready["preference"] = (make_scanned_table("preference", pairs, context.expression), starts)
        return ready

    def _add_to_index(
        self, row: Mapping[str, Any], split: str, trajectory: Trajectory, pairs: Sequence[Mapping[str, Any]]
    ) -> None:
        said = [
            make_review_row(self.context, review, row["sample_id"]) for review in self.reviews.by_row.pop(row["id"], [])
        ]
        line = make_index_row(row, split, trajectory)
        line |= {
            "reviews_sha256": combine_hashes(sorted(map(row_hash, said))),
            "pairs_sha256": combine_hashes(map(row_hash, pairs)),
        }
        self._index.append(line)
        if said:
            self._reviewed.setdefault((split, bucket_of(row["id"], self.bits)), []).extend(said)
        if len(self._index) >= INDEX_BATCH:
            self._flush_index()

    def _flush_index(self) -> None:
        self._indexed.write_table(pa.Table.from_pylist(self._index, schema=INDEX_SCHEMA))
        self._index = []

    def _submit_shard(self, held: Mapping[Config, Sequence[pa.Table]], split: str, bucket: int) -> None:
        for config, tables in held.items():
            while len(self._pending) >= MAX_PENDING:
                self._pending.popleft().result()
            name = shard_name(config, split, bucket, self.bits)
            table = pa.concat_tables(tables)
            self._pending.append(self._pool.submit(write_shard, self.output.path / name, table, config))
            self.output.rows[name] = len(table)
            self.counts["files"] += 1
            self.counts[f"{config}/{split}"] += len(table)

    def _write_reviews(self) -> None:
        """Write the reviews of rows, and those of drafts that became no row, in the split of their part."""
        path = self.context.workspace.select / "split.parquet"
        splits = dict(SPLIT.read(path).select("sample_id", "split").iter_rows()) if path.is_file() else {}
        for identity, reviews in self.reviews.by_row.items():
            sample = self.reviews.samples[identity]
            place = splits.get(sample, SPLITS[0]), bucket_of(identity, self.bits)
            self._reviewed.setdefault(place, []).extend(
                make_review_row(self.context, review, sample) for review in reviews
            )
            self.counts["reviews of drafts that are no row"] += len(reviews)
        for (split, bucket), rows in sorted(self._reviewed.items()):
            ordered = sorted(rows, key=lambda row: (row["row"], row["id"]))
            self._submit_shard(
                {"review": [make_scanned_table("review", ordered, self.context.expression)]}, split, bucket
            )
