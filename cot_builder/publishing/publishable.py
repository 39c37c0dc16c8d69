"""The corpus as it leaves the machine: configurations in small shards, and an index of what each row holds.

A shard holds the rows whose ids, which are hashes, begin with the same bits: a handful. A change of one row so
changes one file of a configuration, whatever is added or removed elsewhere, and equal rows make equal bytes.
"""

import hashlib
import hmac
import json
import secrets as random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from cot_builder.benchmarks.licences import of_row
from cot_builder.corpus.drafts import ObservationImages
from cot_builder.corpus.reading import SPLITS
from cot_builder.corpus.reviews import read_reviews
from cot_builder.corpus.validated import change_stamp, check_bytes
from cot_builder.corpus.writing import row_id
from cot_builder.inspection.rendering import messages, prompt
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.publishing import secrets
from cot_builder.publishing.configs import TRUTH, Config, combined, row_hash, schema
from cot_builder.publishing.index import BATCH, COMPARED, INDEX, INDEX_SCHEMA, index_row, read_split
from cot_builder.publishing.preconditions import check_corpus, corpus_inputs
from cot_builder.publishing.shards import bucket_of, shard_bits, shard_name, write_shard
from cot_builder.publishing.sources import Source, sources
from cot_builder.storage.images import decode
from cot_builder.storage.output import Output, read_manifest, stage_output, versions, write_text
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.review import Review
from schemas.selection import SPLIT
from schemas.supervision import SUPERVISION
from schemas.trajectory import DRAFT, Draft, Trajectory

INDEX_BATCH = 4096
WRITING = 12
"""Shards that are left to the writers while the next batch is read: with fewer, they have nothing to do meanwhile."""
LEAK = "leak"
JUDGE = "judge"
TEXTS = (
    "messages",
    "sample_id",
    "source_set",
    "category",
    "view",
    "teacher",
    "prompt_version",
    "licence",
)
"""Columns of the corpus that are looked through: of what leaves, all others are numbers, hashes, or this project's own
words."""
SALT, SALT_DIGITS = "publish.salt", 64
CODE = (
    "publishing/configs.py", "publishing/publishable.py", "publishing/secrets.py", "benchmarks/licences.py",
    "inspection/rendering.py", "inspection/toolbox.py", "inspection/tools.py", "storage/shards.py", "storage/images.py",
)  # fmt: skip
"""What decides on the bytes that are written, and on what may be."""


def build(params: Params, workspace: Workspace, bits_before: int | None = None) -> Path:
    """Write ``data/publish``, unless it is there already and made from the same; returns the folder.

    Args:
        params: The parameters.
        workspace: The project.
        bits_before: Leading bits of an id that name a shard in what is published; kept while shards stay small.

    Raises:
        IndusCotError: the corpus is not there, was not validated or was changed since; a licence forbids what
            ``publish.images`` asks for; a row holds something that must not leave.
    """
    counts = check_corpus(workspace)
    shown = sources(params, workspace.indus_cot)
    bits = shard_bits(counts, bits_before)
    reviews, salt = read_reviews(workspace), _salt(workspace)
    expression = secrets.pattern(workspace.root, params)
    request = {
        **params.publish.model_dump(include={"images", "require_review", "licence"}),
        "bits": bits,
        # Another way of writing makes other bytes, whatever the version says.
        "code": combined(file_hash(Path(__file__).parent.parent / name) for name in CODE),
        # What was looked for, which holds secrets, under a key that stays here.
        "looked_for": _pseudonym(salt, expression, 64),
        "sets": {name: [source.facts.licence, source.embedded, source.obtain] for name, source in shown.items()},
    }
    inputs = corpus_inputs(workspace)
    if _is_built(workspace.publish, request, inputs):
        return workspace.publish
    check_bytes(workspace)
    with stage_output(workspace.publish, stage="publish", params=request, inputs=inputs) as output:
        build = _Build(params, workspace, shown, bits, reviews, output, expression, salt)
        output.counts |= build.run(counts)
        output.counts["written"] = _written(output.path)
    return workspace.publish


def check(params: Params, workspace: Workspace) -> None:
    """What can be told before anything is written.

    Raises:
        IndusCotError: as :func:`build`, of the corpus as a whole and of licences.
    """
    check_corpus(workspace)
    sources(params, workspace.indus_cot)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a row, on its own: JSON within JSON would have its signs escaped twice."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _written(folder: Path) -> str:
    """Of every file of rows in the folder: another one where one was changed since."""
    paths = sorted(folder.rglob("*.parquet"))
    return combined(f"{path.relative_to(folder).as_posix()} {change_stamp(path)}" for path in paths)


def _is_built(folder: Path, request: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    if not (folder / "manifest.json").is_file():
        return False
    made = read_manifest(folder)
    same = json.loads(json.dumps([request, inputs, versions()], default=str))
    if [made.get("params"), made.get("inputs"), made.get("versions")] != same:
        return False
    return bool(made["counts"].get("written") == _written(folder))


@dataclass
class _Pair:
    """A trajectory that was turned down, beside the one that was taken."""

    origin: str
    reasons: list[str]
    trajectory: Trajectory


@dataclass
class _Build:
    params: Params
    workspace: Workspace
    sources: Mapping[str, Source]
    bits: int
    reviews: Sequence[Review]
    output: Output
    expression: str
    salt: bytes
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, due: Mapping[str, int]) -> dict[str, Any]:
        self._licences: dict[str, str] = {
            name: of_row(self.params.publish.licence, source.facts.licence) for name, source in self.sources.items()
        }
        self._pairs = _pairs(self.workspace, self.reviews, self.counts)
        self._observations = self._observation_images()
        self._paths = _source_paths(self.workspace)
        self._tools = json.dumps(tool_schemas())
        self._said = self._reviews()
        self._reviewed: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._pending: deque[Future[None]] = deque()
        self._index: list[dict[str, Any]] = []
        with (
            ThreadPoolExecutor(self.params.compute.workers) as self._pool,
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

    def _observation_images(self) -> ObservationImages | None:
        folder = self.workspace.draft
        return ObservationImages(folder) if (folder / "observation.parquet").is_file() else None

    # --- the trajectories ---------------------------------------------------------------------------

    def _write_split(self, split: str, count: int) -> None:
        """Cut each batch, made ready as a whole, where the leading bits of the ids change."""
        held: dict[Config, list[pa.Table]] = {}
        bucket, last = -1, ""
        batches = read_split(self.workspace.indus_cot, split)
        for batch in track(batches, f"publishable {split} (batches)", -(-count // BATCH)):
            self._scan(batch, split)
            ids = batch.column("id").to_pylist()
            for before, identity in pairwise([last, *ids]):
                if identity <= before:
                    raise IndusCotError(
                        f"{self.workspace.indus_cot}, row {identity}: is out of order or there twice; the corpus is of "
                        "an older version: run `indus-cot repro assemble`"
                    )
            last = ids[-1]
            ready = self._ready(batch, split)
            start = 0
            for found, run in groupby(ids, lambda identity: bucket_of(identity, self.bits)):
                if found != bucket:
                    self._save(held, split, bucket)
                    held, bucket = {}, found
                size = len(list(run))
                for config, (table, starts) in ready.items():
                    first, end = starts[start], starts[start + size]
                    if end > first:
                        held.setdefault(config, []).append(table.slice(first, end - first))
                start += size
        self._save(held, split, bucket)

    def _scan(self, batch: pa.RecordBatch, split: str) -> None:
        """Look through every text at once, and tell column and row only where something is found."""
        columns = {name: _written_texts(batch.column(name)) for name in TEXTS}
        # The expression is compiled anew for each array: it takes longer than looking through this one.
        if not secrets.matches(pa.concat_arrays(columns.values()), self.expression):
            return
        ids = batch.column("id").to_pylist()
        for name, written in columns.items():
            if secrets.matches(written, self.expression):
                for identity, text in zip(ids, written.to_pylist(), strict=True):
                    secrets.check(text, f"{split}, row {identity}, column {name}", self.expression)
                raise IndusCotError(
                    f"{split}, one of the rows {ids[0]} to {ids[-1]}, column {name}: holds something that must not "
                    "leave; nothing was published. Reject their drafts in review, then run again"
                )

    def _ready(self, batch: pa.RecordBatch, split: str) -> dict[Config, tuple[pa.Table, list[int]]]:
        """Each configuration's rows of a batch, and where the rows of each trajectory begin, and end, among them."""
        images = batch.column("images")
        rows = batch.select([name.partition(".")[0] for name in COMPARED]).to_pylist()
        paths = iter(pc.struct_field(images.flatten(), "path").to_pylist())
        references: list[list[dict[str, Any]]] = []
        pairs: list[dict[str, Any]] = []
        starts = [0]
        for number, (row, count) in enumerate(zip(rows, images.value_lengths().to_pylist(), strict=True)):
            where = f"{self.workspace.indus_cot}, row {row['id']}"
            trajectory = self._check(row, where)
            names = list(islice(paths, count))
            references.append(_references(row, trajectory, names, images[number] if row["region"] else None, where))
            due = self._pairs.get(row["id"], []) + self._pairs.get(row["sample_id"], [])
            for place, pair in enumerate(pair for pair in due if pair.trajectory != trajectory):
                pairs.append(self._preference(row, pair, trajectory, images[number], references[-1], place))
            self._describe(row, split, trajectory, pairs[starts[-1] :])
            starts.append(len(pairs))
        embedded = [self.sources[row["source_set"]].embedded for row in rows]
        obtained = [self.sources[row["source_set"]].obtain for row in rows]
        self.counts["rows"] += len(rows)
        self.counts["embedded"] += sum(embedded)
        shared: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names if name != "image"}
        shared |= {
            "licence": [self._licences[row["source_set"]] for row in rows],
            "image_licence": batch.column("licence"),
        }
        sft = {"images": _within(images, embedded), "references": references, "obtain": obtained}
        rl = {
            "prompt": [_prompt(row["category"], row["view"]) for row in rows],
            "image": _first(images, embedded),
            "references": [found[:1] for found in references],
            "obtain": obtained,
        }
        each = list(range(len(rows) + 1))
        ready: dict[Config, tuple[pa.Table, list[int]]] = {
            "sft": (_table("sft", shared | sft), each),
            "rl": (_table("rl", shared | rl), each),
        }
        if pairs:
            ready["preference"] = (self._table_of("preference", pairs), starts)
        return ready

    def _check(self, row: Mapping[str, Any], where: str) -> Trajectory:
        """The trajectory of a row, once its chat is what the trajectory renders to, and no more."""
        if row["source_set"] not in self.sources:
            raise IndusCotError(f"{where}: is of the unknown set {row['source_set']}")
        if self.params.publish.require_review and row["review_status"] == "auto":
            raise IndusCotError(
                f"{where}: no person has looked at it, and publish.require_review is true; review it "
                "(`indus-cot review push`) or set assemble.review to reviewed, which leaves such rows out"
            )
        try:
            trajectory = Trajectory.model_validate_json(row["trajectory"])
            chat = json.loads(row["messages"])
        except (ValidationError, ValueError):
            raise IndusCotError(f"{where}: messages or trajectory hold no JSON of theirs; assemble again") from None
        if chat != messages(trajectory, row["category"], row["view"]):
            raise IndusCotError(f"{where}, messages: {_stranger(chat)}; nothing was published. Run `indus-cot verify`")
        verdict = trajectory.verdict
        if (row["answer"], [tuple(box) for box in row["boxes"]], row["defect_type"]) != (
            verdict.answer, [tuple(box) for box in verdict.boxes], verdict.defect_type
        ):  # fmt: skip
            raise IndusCotError(
                f"{where}: answer, boxes or defect_type are not those of its trajectory; nothing was published. Run "
                "`indus-cot verify`"
            )
        if row["tools"] != self._tools and json.loads(row["tools"]) != json.loads(self._tools):
            raise IndusCotError(f"{where}, tools: are not the tools of this version; run `indus-cot repro assemble`")
        self._without_path(row, row["messages"], f"{where}, messages")
        return trajectory

    def _without_path(self, row: Mapping[str, Any], text: str, where: str) -> None:
        """The path of a benchmark's image says what is wrong with it."""
        if (path := self._paths.get(row["sample_id"])) and path in text:
            raise IndusCotError(
                f"{where}: hold the supervision field source_path, which students must not see; reject the draft in "
                "review"
            )

    def _describe(
        self, row: Mapping[str, Any], split: str, trajectory: Trajectory, pairs: Sequence[Mapping[str, Any]]
    ) -> None:
        said = [self._review(review, row["sample_id"]) for review in self._said.pop(row["id"], [])]
        line = index_row(row, split, trajectory)
        line |= {
            "reviews_sha256": combined(sorted(map(row_hash, said))),
            "pairs_sha256": combined(map(row_hash, pairs)),
        }
        self._index.append(line)
        if said:
            self._reviewed.setdefault((split, bucket_of(row["id"], self.bits)), []).extend(said)
        if len(self._index) >= INDEX_BATCH:
            self._flush_index()

    def _flush_index(self) -> None:
        self._indexed.write_table(pa.Table.from_pylist(self._index, schema=INDEX_SCHEMA))
        self._index = []

    def _table_of(self, config: Config, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows of a small configuration, whose texts are in no batch that was looked through."""
        texts = [(row["id"], text) for row in rows for text in _texts(row)]
        if secrets.matches(pa.array([secrets.as_json(text) for _, text in texts], pa.string()), self.expression):
            for name, text in texts:
                secrets.check(text, f"{config}, row {name}", self.expression)
        return pa.Table.from_pylist(list(rows), schema=schema(config))

    def _save(self, held: Mapping[Config, Sequence[pa.Table]], split: str, bucket: int) -> None:
        for config, tables in held.items():
            while len(self._pending) >= WRITING:
                self._pending.popleft().result()
            name = shard_name(config, split, bucket, self.bits)
            table = pa.concat_tables(tables)
            self._pending.append(self._pool.submit(write_shard, self.output.path / name, table, config))
            self.output.rows[name] = len(table)
            self.counts["files"] += 1
            self.counts[f"{config}/{split}"] += len(table)

    # --- preferences --------------------------------------------------------------------------------

    def _preference(
        self,
        row: Mapping[str, Any],
        pair: _Pair,
        taken: Trajectory,
        images: pa.ListScalar,
        references: list[dict[str, Any]],
        number: int,
    ) -> dict[str, Any]:
        source = self.sources[row["source_set"]]
        chosen = images.as_py()
        refused, again = self._observed(row, pair.trajectory, chosen[0]["bytes"])
        shown = (chosen[:1], chosen[1:], refused) if source.embedded else ([], [], [])
        chat = partial(messages, category=row["category"], view=row["view"])
        asked = len(prompt(row["category"], row["view"]))
        turned_down = json.dumps(chat(pair.trajectory)[asked:], ensure_ascii=False)
        self._without_path(row, turned_down, f"preference of row {row['id']}, messages that were turned down")
        return {
            "id": f"{row['id']}-{number}",
            "row": row["id"],
            "prompt": _prompt(row["category"], row["view"]),
            "chosen": json.dumps(chat(taken)[asked:], ensure_ascii=False),
            "rejected": turned_down,
            "images": shown[0],
            "chosen_images": shown[1],
            "rejected_images": shown[2],
            "tools": self._tools,
            "origin": pair.origin,
            "reasons": pair.reasons,
            "references": references[:1],
            "chosen_references": references[1:],
            "rejected_references": again,
            **{name: row[name] for name in ("sample_id", "source_set", "category", "view", "toolbox_version")},
            "licence": self._licences[row["source_set"]],
            "image_licence": row["licence"],
            "obtain": source.obtain,
        }

    def _observed(
        self, row: Mapping[str, Any], trajectory: Trajectory, inspected: bytes
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Observation images of a trajectory that is not in the corpus, and how to make them again."""
        toolbox: Toolbox | None = None
        shown, references = [], []
        for number, turn in enumerate(trajectory.turns, 1):
            digest = turn.observation.image_sha256 if turn.observation else None
            if digest is None or turn.call is None:
                continue
            png = self._observations.get(digest) if self._observations and digest in self._observations else None
            if png is None:
                toolbox = toolbox or Toolbox(decode(inspected, name=row["id"]), {})
                _, png = toolbox.observe(turn.call)
            if png is None or hashlib.sha256(png).hexdigest() != digest:
                raise IndusCotError(
                    f"preference of row {row['id']}, turn {number}: the tool returns another image than was recorded; "
                    "run `indus-cot repro draft`"
                )
            path = f"{digest[:16]}.png"
            shown.append({"bytes": png, "path": path})
            references.append(_observation(digest, number, path, row["image_sha256"]))
        return shown, references

    # --- reviews ------------------------------------------------------------------------------------

    def _reviews(self) -> dict[str, list[Review]]:
        """What was said of drafts as they are now, by the id of the row that each would be; a gold page shows another
        draft on purpose, with its mistake."""
        table = self.workspace.draft / "trajectory.parquet"
        drafts = DRAFT.read(table) if self.reviews and table.is_file() else DRAFT.frame([])
        current = set(drafts["draft_sha256"])
        self._samples = {row_id(name): sample for name, sample in drafts.select("draft_id", "sample_id").iter_rows()}
        found: dict[str, list[Review]] = {}
        for review in self.reviews:
            identity = row_id(review.draft_id)
            if identity not in self._samples:
                self.counts["reviews left out: of drafts that are no more"] += 1
            elif review.role != "gold" and review.draft_sha256 not in current:
                # It was said of an earlier draft of the row, as `assemble` sees it too.
                self.counts["reviews left out: of earlier drafts"] += 1
            else:
                found.setdefault(identity, []).append(review)
        return found

    def _review(self, review: Review, sample: str) -> dict[str, Any]:
        said = review.model_dump(
            include={
                "seconds", "verdict", "reasons", "evidence_rating", "logic_rating", "changes", "caught", "problems"
            }
        )  # fmt: skip
        return {
            "id": _pseudonym(self.salt, review.review_id, 16),
            "row": row_id(review.draft_id),
            "sample_id": sample,
            "reviewer": f"reviewer-{_pseudonym(self.salt, review.reviewer.lower(), 8)}",
            "role": review.role,
            "day": review.reviewed_at[:10],
            **said,
            "licence": self.params.publish.licence,
        }

    def _write_reviews(self) -> None:
        """Decisions beside the rows they are of, and those on drafts that became no row, in the split of their part."""
        path = self.workspace.select / "split.parquet"
        splits = dict(SPLIT.read(path).select("sample_id", "split").iter_rows()) if path.is_file() else {}
        for identity, reviews in self._said.items():
            sample = self._samples[identity]
            place = splits.get(sample, SPLITS[0]), bucket_of(identity, self.bits)
            self._reviewed.setdefault(place, []).extend(self._review(review, sample) for review in reviews)
            self.counts["reviews of drafts that are no row"] += len(reviews)
        for (split, bucket), rows in sorted(self._reviewed.items()):
            ordered = sorted(rows, key=lambda row: (row["row"], row["id"]))
            self._save({"review": [self._table_of("review", ordered)]}, split, bucket)


def _references(
    row: Mapping[str, Any], trajectory: Trajectory, names: Sequence[str], images: pa.ListScalar | None, where: str
) -> list[dict[str, Any]]:
    digests = [
        (turn.observation.image_sha256, number)
        for number, turn in enumerate(trajectory.turns, 1)
        if turn.observation and turn.observation.image_sha256
    ]
    if len(names) != len(digests) + 1:
        raise IndusCotError(f"{where}: has {len(names)} images for {len(digests)} observations; assemble again")
    file = row["image_sha256"]
    # Only a region is a file of our own making, whose hash nothing recorded.
    first = hashlib.sha256(images[0]["bytes"].as_py()).hexdigest() if images is not None else file
    kind = "file" if images is None else "region"
    made = [
        {"sha256": first, "kind": kind, "turn": None, "path": names[0], "file_sha256": file, "box": row["region"] or []}
    ]
    return made + [_observation(sha, turn, name, file) for (sha, turn), name in zip(digests, names[1:], strict=True)]


def _observation(digest: str, turn: int, path: str, file: str) -> dict[str, Any]:
    return {"sha256": digest, "kind": "observation", "turn": turn, "path": path, "file_sha256": file, "box": []}


def _within(images: pa.Array, embedded: Sequence[bool]) -> pa.Array:
    """The lists of images, empty where a row's are published by reference."""
    if all(embedded):
        return images
    if not any(embedded):
        return pa.array([[]] * len(images), images.type)
    none = pa.array([[]], images.type)
    return pa.concat_arrays([images.slice(i, 1) if inside else none for i, inside in enumerate(embedded)])


def _written_texts(texts: pa.Array) -> pa.StringArray:
    """Texts as JSON: those that are none yet are made so."""
    if isinstance(texts, pa.ExtensionArray):
        return texts.storage
    return pa.array([json.dumps(text, ensure_ascii=False) for text in texts.to_pylist()], pa.string())


def _first(images: pa.ListArray, embedded: Sequence[bool]) -> pa.ChunkedArray:
    """The first image of each row, where it lies: one chunk a row, nothing is copied."""
    flat, starts = images.values, images.offsets.to_pylist()
    none = pa.nulls(1, flat.type)
    chunks = [flat.slice(start, 1) if inside else none for start, inside in zip(starts, embedded, strict=False)]
    return pa.chunked_array(chunks, flat.type)


def _table(config: Config, columns: Mapping[str, Any]) -> pa.Table:
    due = schema(config)
    return pa.Table.from_arrays([_as(columns[item.name], item.type) for item in due], schema=due)


def _as(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Values as an array of ``kind``; a list of texts may become JSON."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if isinstance(values, list):
        values = pa.array(values, storage)
    if values.type == kind:
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, values.cast(storage))
    return values.cast(kind)


@cache
def _prompt(category: str, view: str) -> str:
    return json.dumps(prompt(category, view), ensure_ascii=False)


def _stranger(chat: Any) -> str:
    """What in a chat is not of a trajectory's rendering, for a refusal."""
    for number, message in enumerate(chat if isinstance(chat, list) else []):
        fields = set(message) if isinstance(message, dict) else set()
        if told := sorted(fields & TRUTH):
            return f"message {number} has the supervision field {', '.join(told)}, which students must not see"
        if other := sorted(fields - {"role", "content", "tool_calls", "name"}):
            return f"message {number} has the unknown field {', '.join(other)}"
    return "are not what the trajectory renders to"


def _pairs(workspace: Workspace, reviews: Sequence[Review], counts: Counter[str]) -> dict[str, list[_Pair]]:
    """What was turned down, by the id of the row or of the sample that holds what was taken instead.

    Drafts that a gate found to leak supervision are left out: nobody should learn from their texts.
    """
    found: dict[str, list[_Pair]] = {}
    rejected = workspace.draft / "rejected.parquet"
    drafts: list[Draft] = DRAFT.records(DRAFT.read(rejected)) if rejected.is_file() else []
    for draft in sorted(drafts, key=lambda item: item.draft_id):
        gates = [violation.gate for violation in draft.violations]
        if LEAK in gates:
            counts["pairs left out: leak"] += 1
            continue
        origin = "judge" if all(gate == JUDGE for gate in gates) else "gates"
        pair = _Pair(origin, gates, Trajectory.model_validate_json(draft.trajectory))
        found.setdefault(draft.sample_id, []).append(pair)
    fixed = {row.draft_id for row in reviews if row.verdict == "fixed" and row.role != "gold" and not row.problems}
    taken = workspace.draft / "trajectory.parquet"
    if fixed and taken.is_file():
        table = DRAFT.read(taken).filter(pl.col("draft_id").is_in(sorted(fixed)))
        for draft in DRAFT.records(table.sort("draft_id")):
            before = Trajectory.model_validate_json(draft.trajectory)
            found.setdefault(row_id(draft.draft_id), []).append(_Pair("review", [], before))
    return found


def _source_paths(workspace: Workspace) -> dict[str, str]:
    path = workspace.select / "supervision.parquet"
    if not path.is_file():
        return {}
    return dict(SUPERVISION.read(path).select("sample_id", "source_path").iter_rows())


def _salt(workspace: Workspace) -> bytes:
    """This project's own salt, made once and never published: who has it can try names."""
    path = workspace.root / ".indus-cot" / SALT
    if not path.is_file():
        write_text(path, random.token_hex(SALT_DIGITS // 2), private=True)
    salt = path.read_bytes()
    if len(salt.strip()) < SALT_DIGITS:
        raise IndusCotError(
            f"{path}: is cut short, and pseudonyms made with it could be guessed; take it from where the corpus was "
            "published before, or delete it, which gives every reviewer another pseudonym"
        )
    return salt


def _pseudonym(salt: bytes, name: str, digits: int) -> str:
    return hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:digits]
