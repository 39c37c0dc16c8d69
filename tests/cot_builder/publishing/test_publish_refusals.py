"""Publications that are refused: rights, names, foreign folders, a corpus that was not validated."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers import training_project
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, assert_refused, mark_validated
from tests.servers.hub_server import READER, HubServer


def test_missing_repository_without_login(hub: HubServer, client: Client) -> None:
    """The Hub answers 401, and does not say whether it is missing or private."""
    hub.fail("owner/elsewhere", 401, times=99)
    assert_refused(client.run("diff", "owner/elsewhere", token=""), "is private or gated, and you are not logged in")


def test_tokens(client: Client) -> None:
    assert_refused(client.run("publish", "--repo", REPO, token=""), "hf auth login", "HF_TOKEN")
    assert_refused(client.run("publish", "--repo", REPO, token="hf_wrongwrongwrongwrong"), "rejects the token (401)")
    assert_refused(client.run("publish", "--repo", "owner/new", token=READER), "may not write", "(403)")
    assert "hf_wrong" not in client.output and READER not in client.output


def test_names(hub: HubServer, client: Client) -> None:
    assert_refused(client.run("publish"), "--repo OWNER/NAME", "publish.repo")
    assert_refused(client.run("publish", "--repo", "nameless"), "is not a repository name", "OWNER/NAME")
    assert_refused(client.run("publish", "--repo", "owner/missing", "--pr"), "does not exist", "--pr")
    hub.make("owner/taken", "models")
    assert_refused(client.run("publish", "--repo", "owner/taken"), "a model of this name exists on the Hub")
    hub.make("owner/strange")
    hub.put("owner/strange", "data/train.csv", b"a,b\n")
    assert_refused(client.run("publish", "--repo", "owner/strange"), "did not publish this dataset", "data/train.csv")
    hub.make("owner/described")
    hub.put("owner/described", "README.md", b"---\nlicense: mit\n---\n")
    assert client.run("publish", "--repo", "owner/described", "--dry-run").code == 0
    hub.put("owner/described", "README.md", b"---\nlicense: mit\n---\n# My parts\n")
    assert_refused(client.run("publish", "--repo", "owner/described"), "did not publish this dataset", "README.md")
    hub.make("owner/broken")
    hub.put("owner/broken", "indus-cot.json", b'{"kind": "dataset"')
    assert_refused(client.run("publish", "--repo", "owner/broken"), "owner/broken: indus-cot.json is damaged")
    assert_refused(client.run("diff", "owner/nowhere"), "neither a folder")


def test_what_somebody_elses_folder_holds(
    hub: HubServer, client: Client, published: CommandResult, tmp_path: Path
) -> None:
    clone, damaged, foreign = (tmp_path / name for name in ("clone", "damaged", "foreign"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 0
    for path, data in hub.files(REPO).items():
        for folder in (clone, damaged):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        if path.endswith(".parquet"):
            (clone / path).write_bytes(pointer)
            (damaged / path).write_bytes(data[:100])
    (foreign / "sft/train").mkdir(parents=True)
    for path in ("index.parquet", "sft/train/0.parquet"):
        pq.write_table(pa.table({"id": ["1"], "text": ["theirs"]}), foreign / path)
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["1"], "text": ["theirs"]}), other / "data/train-00000-of-00001.parquet")
    assert_refused(client.run("diff", str(other)), "has no column", "is", "a corpus?")
    for folder, index, shard in (
        (clone, "index.parquet: is a git-lfs pointer", "is a git-lfs pointer"),
        (damaged, "index.parquet is damaged", ".parquet: damaged parquet file"),
        (foreign, "no column category", "not a shard of sft that indus-cot published"),
    ):
        assert_refused(client.run("diff", str(folder)), index)
        assert_refused(client.run("rehydrate", str(folder), "--to", str(tmp_path / "whole")), shard)
    assert not (tmp_path / "whole").exists()


def test_refused_metadata_create_no_repository(hub: HubServer, client: Client) -> None:
    hub.card_fault = '"tags" must be an array'
    done = client.run("publish", "--repo", "owner/faulty")
    assert_refused(done, "refuses the metadata of the card", '"tags" must be an array')
    assert ("datasets", "owner/faulty") not in hub.repositories


def test_a_corpus_that_was_not_validated(client: Client, copy: Path) -> None:
    shard = copy / "data/indus_cot/data/train-00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)
    assert_refused(client.run("publish", "--repo", REPO, folder=copy), "changed after it was validated")
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(0, 1)]), shard)
    assert_refused(client.run("publish", "--repo", REPO, folder=copy), "changed after it was validated", "sha256")
    mark_validated(copy)
    assert_refused(client.run("publish", "--repo", REPO, folder=copy), "is out of order or duplicated")
    training_project.change_manifest(copy / "data/indus_cot", stage="draft")
    assert_refused(client.run("publish", "--repo", REPO, folder=copy), "was not validated")
    shutil.rmtree(copy / "data/indus_cot")
    assert_refused(client.run("publish", "--repo", REPO, folder=copy), "there is no corpus")


def test_unreviewed_rows_where_reviews_are_required(client: Client, copy: Path) -> None:
    done = client.run("--set", "publish.require_review=true", "publish", "--repo", REPO, folder=copy)
    assert_refused(done, "not reviewed", "publish.require_review")


def test_check_of_real_hub_runs(hub: HubServer, client: Client, published: CommandResult) -> None:
    told = client.python(
        "import builtins, contextlib, io, sys\nfrom bench import real_hub\n"
        "sys.argv, builtins.input = ['real_hub', 'owner'], lambda *_: ''\nsaid = io.StringIO()\n"
        "with contextlib.redirect_stdout(said):\n    real_hub.main()\nvalue = said.getvalue()"
    )
    for step in ("stale parent", "pull request, second time", "copy whole", "sft train: ", "now look at"):
        assert f"ok    {step}" in told, told
    assert ("datasets", "owner/indus-cot-check") not in hub.repositories
