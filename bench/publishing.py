"""Publishing: shards against a plain copy and against `datasets`, what a small change uploads, memory."""

import hashlib
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.paired import Row, own_memory, paired, set_aside
from cot_builder.params import Params
from cot_builder.storage.images import encode_png
from cot_builder.storage.shards import image_parquet_options
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.trajectory import Trajectory
from tests.helpers import small_corpus
from tests.helpers.hub_client import Client
from tests.helpers.publication import STATED, write_params
from tests.servers.hub_server import OWNER, HubServer

ROWS = 480
IMAGE, OBSERVATION = 900_000, 200_000
"""Bytes of a photograph and of what a tool returns, about those of Real-IAD at 1024 pixels."""
GROUP = 32
"""Rows that `assemble` gathers in a row group of 64 MiB."""
MANY_ROWS, SMALL_IMAGE = 600, 30_000
CHANGED = 0.01
MEMORY_ROWS = (40, 400)
RUNS = 3
PEAK = """
value = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def params() -> Params:
    """Of a corpus whose images may be passed on."""
    base = small_corpus.params()
    mine = base.pull["mine"].model_copy(update=STATED)
    return base.model_copy(update={"pull": {**base.pull, "mine": mine}})


@contextmanager
def _corpus(rows: int, image: int, observation: int) -> Iterator[Workspace]:
    """A corpus of so many trajectories of the small one, with incompressible images of a photograph's size."""
    with tempfile.TemporaryDirectory(prefix="indus-cot-bench-") as name:
        workspace = small_corpus.build(Path(name), **STATED)
        shutil.rmtree(workspace.draft)
        _grow(workspace.indus_cot, rows, image, observation)
        yield workspace


def _grow(corpus: Path, rows: int, image: int, observation: int) -> None:
    from cot_builder.corpus.writing import corpus_features

    few = pq.read_table(corpus / "data/train-00000.parquet").to_pylist()
    schema = corpus_features().arrow_schema
    shutil.rmtree(corpus / "data")
    (corpus / "data").mkdir()
    random = np.random.default_rng(0)
    held = []
    with pq.ParquetWriter(corpus / "data/train-00000.parquet", schema, **image_parquet_options(schema)) as writer:
        for number in range(rows):
            held.append(_noisy(few[number % len(few)], f"{number * (2**64 // rows):016x}", random, image, observation))
            if len(held) == GROUP or number == rows - 1:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held = []
    _validated(corpus, counts={"train": rows})


def _noisy(
    few: Mapping[str, Any], identity: str, random: np.random.Generator, image: int, observation: int
) -> dict[str, Any]:
    """A row with other images, and their hashes wherever it has those of its own."""
    pngs = [_noise(random, observation if place else image) for place in range(len(few["images"]))]
    first, *seen = [hashlib.sha256(png).hexdigest() for png in pngs]
    turns = Trajectory.model_validate_json(few["trajectory"]).turns
    old = [turn.observation.image_sha256 for turn in turns if turn.observation and turn.observation.image_sha256]
    trajectory = few["trajectory"]
    for before, after in zip(old, seen, strict=True):
        trajectory = trajectory.replace(before, after)
    names = [few["image"]["path"], *(f"{digest[:16]}.png" for digest in seen)]
    shown = [{"bytes": png, "path": name} for png, name in zip(pngs, names, strict=True)]
    return {**few, "id": identity, "image": shown[0], "images": shown, "image_sha256": first, "trajectory": trajectory}


def _validated(corpus: Path, **values: Any) -> None:
    """The manifest says of the shards what `assemble` would."""
    shards = {f"data/{path.name}": file_hash(path) for path in sorted((corpus / "data").glob("*.parquet"))}
    manifest = corpus / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "outputs": shards, **values}))


def _noise(random: np.random.Generator, size: int) -> bytes:
    """A PNG file of about so many bytes, which does not compress."""
    side = round((size / 3) ** 0.5)
    return encode_png(random.integers(0, 256, (side, side, 3), np.uint8))


def publish_writing() -> Row:
    """480 trajectories; the copy is of the shards that were written. The corpus was hashed before: once a shard."""
    from cot_builder.publishing.publishable import build_shards

    with _corpus(ROWS, IMAGE, OBSERVATION) as workspace:
        copy, kept = workspace.root / "copy", workspace.root / "kept"

        def clear() -> None:
            for folder in (workspace.publish, copy):
                set_aside(folder)
            own_memory(workspace.root / "scratch", size)

        known = params()
        shutil.copytree(build_shards(known, workspace), kept)
        size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
        ratio = paired(
            lambda: build_shards(known, workspace),
            lambda: shutil.copytree(kept, copy),
            7,
            before=clear,
            before_theirs=clear,
        )
    return Row("publish_writing", "publishable shards, MB/s", "plain copy of the same bytes", ratio, 0.8, "higher")


def publish_preparation() -> Row:
    """The same rows and configurations; `push_to_hub` embeds and writes each shard before it uploads it."""
    import datasets
    from datasets.table import embed_table_storage

    from cot_builder.publishing.publishable import build_shards

    datasets.disable_progress_bars()
    with _corpus(ROWS, IMAGE, OBSERVATION) as workspace:
        folder = build_shards(params(), workspace)
        loaded = [
            datasets.load_dataset(
                "parquet",
                data_files=str(folder / config / "train" / "*.parquet"),
                split="train",
                cache_dir=str(workspace.root / "cache"),
            )
            for config in ("sft", "rl")
        ]

        def theirs() -> None:
            for number, rows in enumerate(loaded):
                shard = rows.with_format("arrow").map(
                    embed_table_storage, batched=True, batch_size=100, keep_in_memory=True
                )
                shard.to_parquet(workspace.root / f"theirs-{number}.parquet", batch_size=100)

        ratio = paired(
            lambda: build_shards(params(), workspace),
            theirs,
            RUNS,
            before=lambda: set_aside(workspace.publish),
        )
    what = "publishable shards"
    return Row("publish_preparation", what, "Dataset.push_to_hub's own preparation", ratio, 3.0, "higher")


def publish_change() -> Row:
    """600 trajectories, of which 6, drawn at random, get another thought; bytes as the server counts them."""
    with _corpus(MANY_ROWS, SMALL_IMAGE, SMALL_IMAGE) as workspace, _hub(workspace) as (hub, client):
        _publish(client)
        first = sum(hub.uploads)
        shard = workspace.indus_cot / "data/train-00000.parquet"
        table = pq.read_table(shard)
        rows: list[dict[str, Any]] = table.to_pylist()
        drawn = np.random.default_rng(1).choice(len(rows), int(CHANGED * len(rows)), replace=False)
        for number in drawn.tolist():
            for name in ("messages", "trajectory", "tagged"):
                rows[number][name] = rows[number][name].replace(" it ends for", " it comes to its end for")
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
        _validated(workspace.indus_cot)
        _publish(client)
        share = (sum(hub.uploads) - first) / first
    what = "bytes uploaded after 1 % of the rows changed"
    return Row("publish_change", what, "the first upload", share, 0.05, "lower")


@contextmanager
def _hub(workspace: Workspace) -> Iterator[tuple[HubServer, Client]]:
    """The stand-in, and a process that publishes the corpus to it."""
    shutil.copytree(Path(__file__).parent.parent / "profiles", workspace.root / "profiles")
    write_params(workspace.root, mine=STATED)
    hub = HubServer()
    client = Client(workspace.root, hub.url, OWNER)
    try:
        yield hub, client
    finally:
        client.close()
        hub.close()


def _publish(client: Client) -> None:
    done = client.run("publish", "--repo", "owner/bench")
    if done.code:
        raise RuntimeError(done.out)


def memory_publish() -> Row:
    """40 and 400 trajectories: written, uploaded, loaded back and compared."""
    return Row(
        "memory_publish",
        "peak memory of publishing 10x the rows",
        "1x",
        statistics.median(_peaks() for _ in range(RUNS)),
        1.2,
        "lower",
    )


def _peaks() -> float:
    found = []
    for rows in MEMORY_ROWS:
        with _corpus(rows, IMAGE, OBSERVATION) as workspace, _hub(workspace) as (_, client):
            _publish(client)
            found.append(client.python(PEAK))
    return found[1] / found[0]
