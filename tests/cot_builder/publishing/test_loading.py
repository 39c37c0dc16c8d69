"""A published corpus as outsiders load it: from the Hub and from a folder."""

import shutil
from pathlib import Path

import pytest

from cot_builder.corpus.reading import read_all
from cot_builder.publishing.loading import load_corpus
from schemas.errors import IndusCotError
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO

CODE = """
from indus_cot import load_corpus
corpus = load_corpus({place!r})
value = [[row.id, row.split, row.trajectory.model_dump_json(), len(row.images)] for row in corpus]
"""


def test_published_rows_equal_the_corpus(client: Client, project: Path, published: CommandResult) -> None:
    due = {row.id: [row.split, row.trajectory, len(row.images)] for row in read_all(project / "data/indus_cot")}
    for place in (REPO, f"{REPO}@main", f"hf://datasets/{REPO}", "data/publish"):
        found = client.python(CODE.format(place=place))
        assert {name: rest for name, *rest in found} == due, place


def test_published_calls_are_replayed(project: Path, published: CommandResult) -> None:
    corpus = load_corpus(project / "data/publish")
    replayed = {
        calls: corpus.replay(row)
        for row in corpus
        if "prior" not in (calls := tuple(c.tool for c in row.trajectory.calls))
    }
    assert max(replayed.values()) >= 1 and all(count == len(calls) for calls, count in replayed.items())


def test_images_by_reference_need_rehydrate(client: Client, copy: Path) -> None:
    done = client.run(
        "--set", "publish.images=reference", "publish", "--repo", "owner/loaded", "--dry-run", folder=copy
    )
    assert done.code == 0, done.out
    corpus = load_corpus(copy / "data/publish")
    row = next(iter(corpus))
    assert row.images == [] and row.trajectory.verdict
    with pytest.raises(IndusCotError, match="published by reference; make them with `indus-cot rehydrate`"):
        corpus.toolbox(row)


def test_unknown_repositories_are_named(client: Client) -> None:
    code = "from indus_cot import *\ntry:\n    load_corpus('owner/nothing')\nexcept IndusCotError as e:\n    value = str(e)"
    assert client.python(code).startswith("owner/nothing: neither a folder nor a dataset on the Hub")


def test_damaged_shards_are_named(project: Path, published: CommandResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(project / "data/publish", tmp_path / "copy"))
    shard = min((copy / "sft").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(IndusCotError, match=f"{shard.name}: damaged parquet file"):
        load_corpus(copy)
