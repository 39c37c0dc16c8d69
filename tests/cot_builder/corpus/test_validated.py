"""Tests of the checks that a corpus is validated, unchanged and up to date."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cot_builder.corpus import validated
from cot_builder.corpus.reading import list_shards, read_all, read_columns
from cot_builder.corpus.validated import (
    check_bytes,
    check_up_to_date,
    check_validated,
    corpus_sha256,
    hash_shards,
    identify_corpus,
)
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from tests.helpers import small_corpus
from tests.helpers.training_project import change_manifest


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return small_corpus.build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def workspace(assembled: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the project, which a test may damage."""
    return Workspace(Path(shutil.copytree(assembled.root, tmp_path / "project")))


def run_all_checks(workspace: Workspace) -> dict[str, int]:
    counts = check_validated(workspace.indus_cot)
    check_up_to_date(workspace)
    check_bytes(workspace)
    return counts


def test_validated_corpus_has_its_rows(workspace: Workspace) -> None:
    counts = run_all_checks(workspace)
    rows = list(read_all(workspace.indus_cot))
    assert sum(counts.values()) == len(rows) > 0
    assert counts == {split: sum(row.split == split for row in rows) for split in counts}


def delete_corpus(workspace: Workspace) -> None:
    shutil.rmtree(workspace.indus_cot)


def delete_shards(workspace: Workspace) -> None:
    shutil.rmtree(workspace.indus_cot / "data")


def change_stage(workspace: Workspace) -> None:
    change_manifest(workspace.indus_cot, stage="draft")


def drop_row(workspace: Workspace) -> None:
    shard = list_shards(workspace.indus_cot)[0]
    pq.write_table(pq.read_table(shard).slice(1), shard)


def drop_column(workspace: Workspace) -> None:
    shard = list_shards(workspace.indus_cot)[0]
    pq.write_table(pq.read_table(shard).drop_columns(["answer"]), shard)


def truncate_shard(workspace: Workspace) -> None:
    shard = list_shards(workspace.indus_cot)[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def empty_shard(workspace: Workspace) -> None:
    list_shards(workspace.indus_cot)[0].write_bytes(b"")


def rewrite_shard(workspace: Workspace) -> None:
    shard = list_shards(workspace.indus_cot)[0]
    pq.write_table(pq.read_table(shard), shard)


def change_drafts(workspace: Workspace) -> None:
    table = workspace.draft / "trajectory.parquet"
    pq.write_table(pq.read_table(table).slice(1), table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (delete_corpus, "there is no corpus; run `indus-cot repro assemble`"),
        (delete_shards, r"contains \{\} rows, but its manifest lists .* changed after it was validated"),
        (
            change_stage,
            "was not validated: its manifest is from the stage 'draft', not from assemble, which validates a corpus; run `indus-cot repro assemble`",
        ),
        (drop_row, "changed after it was validated; run `indus-cot repro assemble`"),
        (drop_column, r"train-00000\.parquet: has no column answer"),
        (truncate_shard, r"train-00000\.parquet: damaged parquet file"),
        (empty_shard, r"train-00000\.parquet: damaged parquet file"),
        (rewrite_shard, r"train-00000\.parquet: its sha256 is not the one recorded"),
        (change_drafts, r"was assembled before .*trajectory\.parquet changed"),
    ],
)
def test_changed_corpus_is_refused(workspace: Workspace, change: Callable[[Workspace], None], message: str) -> None:
    change(workspace)
    with pytest.raises(IndusCotError, match=message):
        run_all_checks(workspace)


def test_unchanged_shards_are_hashed_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    check_bytes(workspace)
    monkeypatch.setattr(validated, "file_hash", None)
    check_bytes(workspace)


def test_identify_corpus_of_a_model(workspace: Workspace) -> None:
    corpus = workspace.indus_cot
    ours, shards = corpus_sha256(corpus), hash_shards(corpus)
    assert identify_corpus({"corpus": ours, "prior": "1" * 64}, corpus) == (ours, True)
    assert identify_corpus({**shards, "model": "tiny"}, corpus) == (ours, True)
    assert identify_corpus({"corpus": "1" * 64}, corpus) == ("1" * 64, False)
    named, here = identify_corpus(dict.fromkeys(shards, "1" * 64), corpus)
    assert not here and named not in ("1" * 64, ours)
    assert not identify_corpus({"model": "tiny"}, corpus)[1]
    shutil.rmtree(corpus)
    assert not identify_corpus({**shards}, corpus)[1] and identify_corpus({"corpus": ours}, corpus) == (ours, False)


def test_read_columns(assembled: Workspace) -> None:
    found = read_columns(assembled.indus_cot, ("view", "id"))
    assert found.rows() == [(row.view, row.id) for row in read_all(assembled.indus_cot)]
    with pytest.raises(IndusCotError, match="no column colour"):
        read_columns(assembled.indus_cot, ("id", "colour"))
