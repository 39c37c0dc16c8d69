"""What a later publication sends, and what somebody else did meanwhile."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.review import REVIEW
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, Rows, assert_refused, change, mark_validated, reword
from tests.servers.hub_server import READER, HubServer


def test_change_uploads_only_its_shards(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    name = "owner/changes"
    assert client.run("publish", "--repo", name, folder=copy).code == 0
    first = hub.repository(name).refs["main"]
    hub.put(name, "assets/logo.png", b"of a co-owner")
    before, sent = hub.files(name), len(hub.uploads)
    change(copy, lambda rows: reword(rows[2]))
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0, done.out
    after = hub.files(name)
    moved = {path for path in after if after[path] != before.get(path)}
    assert len([path for path in moved if path.startswith("sft/")]) == 1
    assert not [path for path in moved if path.startswith(("rl/", "review/"))]
    assert len(hub.uploads) - sent == len([path for path in moved if path.endswith((".parquet", ".png"))])
    assert "0 rows added, 0 removed, 1 changed, 0 reviewed again" in done.out and "Indus-CoT 1.0.1" in done.out
    assert "1.0.1" in after["CHANGELOG.md"].decode() and "1 changed" in after["CHANGELOG.md"].decode()
    assert after["assets/logo.png"] == b"of a co-owner"
    for other in (str(copy / "data/indus_cot"), name):
        said = client.run("diff", f"{name}@{first}", other)
        assert said.code == 0 and "1 changed" in said.out and "mine/" in said.out, said.out


def test_removed_rows_remove_their_shards(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    shutil.rmtree(copy / "data/indus_cot/data")
    (copy / "data/indus_cot/data").mkdir()
    source = client.folder / "data/indus_cot/data"
    shutil.copy(source / "train-00000.parquet", copy / "data/indus_cot/data")
    manifest = copy / "data/indus_cot/manifest.json"
    values = json.loads(manifest.read_text())
    gone = values["counts"].pop("validation")
    manifest.write_text(json.dumps(values))
    name = "owner/fewer"
    assert client.run("publish", "--repo", name).code == 0
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0 and f"{gone} removed" in done.out and "Indus-CoT 1.1.0" in done.out, done.out
    assert not [path for path in hub.files(name) if "/validation/" in path]


def test_a_pull_request_leaves_main_alone(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    change(copy, lambda rows: reword(rows[3]))
    main = hub.repository(REPO).refs["main"]
    hub.fail(f"POST /api/datasets/{REPO}/commit", 0, when="done")
    done = client.run("publish", "--repo", REPO, "--pr", folder=copy)
    assert done.code == 0 and "pull request:" in done.out and "rows loaded back" in done.out, done.out
    assert hub.faults[0].times == 0 and hub.repository(REPO).refs["main"] == main
    assert hub.files(REPO, revision="refs/pr/1") != hub.files(REPO)
    # Neither a lost answer nor a second run makes a second one.
    again = client.run("publish", "--repo", REPO, "--pr", folder=copy).out
    assert f"{REPO}/discussions/1; compared before" in again, again
    assert len(hub.repository(REPO).proposals) == 1
    assert_refused(client.run("publish", "--repo", REPO, "--pr", "--tag", folder=copy), "cannot be tagged", "--tag")


def test_a_tag_stays_where_it_is(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    name, words = "owner/tagged", ("publish", "--repo", "owner/tagged", "--tag")
    assert client.run(*words, folder=copy).code == 0
    repository = hub.repository(name)
    first, head = list(repository.commits)
    repository.tags |= {"v1.0.0": first, "v1.0.1": first}
    assert_refused(client.run(*words, folder=copy), f"another commit, {first[:8]}, has the tag v1.0.0")
    change(copy, lambda rows: reword(rows[2]))
    sent = len(hub.uploads)
    assert_refused(client.run(*words, folder=copy), "has the tag v1.0.1", "nothing was sent")
    assert repository.refs["main"] == head and len(hub.uploads) == sent


def test_private_is_no_wish(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    change(copy, lambda rows: reword(rows[2]))
    head, sent = hub.repository(REPO).refs["main"], len(hub.uploads)
    for words in ((), ("--dry-run",), ("--pr",)):
        assert_refused(
            client.run("publish", "--repo", REPO, "--private", *words, folder=copy), "exists and is public", "--private"
        )
    assert hub.repository(REPO).refs["main"] == head and len(hub.uploads) == sent


def test_who_may_only_read_writes_nothing(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    change(copy, lambda rows: reword(rows[2]))
    head, sent = hub.repository(REPO).refs["main"], len(hub.uploads)
    assert_refused(
        client.run("publish", "--repo", REPO, token=READER, folder=copy), "may not write or read there (403)"
    )
    assert hub.repository(REPO).refs["main"] == head and len(hub.uploads) == sent


def test_other_bytes_from_hub_are_refused(hub: HubServer, client: Client, copy: Path) -> None:
    name = "owner/altered"

    def alter(what: Callable[[Rows], Rows]) -> None:
        for path, data in hub.files(name).items():
            if path.startswith("sft/train/"):
                table = pq.read_table(pa.BufferReader(data))
                sink = pa.BufferOutputStream()
                pq.write_table(pa.Table.from_pylist(what(table.to_pylist()), schema=table.schema), sink)
                hub.alter(name, path, sink.getvalue().to_pybytes())

    words = ("publish", "--repo", name)
    hub.after_commit = lambda: alter(lambda rows: [*rows[:-1], {**rows[-1], "category": "another"}])
    assert_refused(client.run(*words, folder=copy), "sft, train, row ", "the loaded row differs")
    hub.after_commit = lambda: alter(lambda rows: [])
    assert_refused(client.run(*words, folder=copy), "loaded back")
    hub.after_commit = lambda: None
    assert "every hash as written" in client.run(*words, folder=copy).out


def test_somebody_elses_commit_is_not_overwritten(
    hub: HubServer, client: Client, published: CommandResult, copy: Path
) -> None:
    name = "owner/shared"
    assert client.run("publish", "--repo", name, "--private").code == 0
    assert hub.repository(name).private
    change(copy, lambda rows: reword(rows[4]))
    hub.before_commit = lambda: hub.put(name, "notes.txt", b"mine")
    assert_refused(client.run("publish", "--repo", name, folder=copy), "somebody else has committed since")
    assert hub.files(name)["notes.txt"] == b"mine" and "1.0.1" not in hub.files(name)["CHANGELOG.md"].decode()
    assert_refused(
        client.run("publish", "--repo", name, "--parent", "0" * 40, folder=copy), "somebody has committed since"
    )


def test_repository_created_meanwhile_is_not_overwritten(
    hub: HubServer, client: Client, published: CommandResult
) -> None:
    def made(path: str, data: bytes) -> None:
        if ("datasets", "owner/meanwhile") not in hub.repositories:
            hub.make("owner/meanwhile")
            hub.put("owner/meanwhile", path, data)

    manifest = hub.files(REPO)["indus-cot.json"]
    for path, data, told in (
        ("notes.txt", b"mine", "holds notes.txt"),
        ("indus-cot.json", manifest, "somebody else has published to it"),
    ):
        hub.repositories.pop(("datasets", "owner/meanwhile"), None)
        hub.before_create = partial(made, path, data)
        assert_refused(client.run("publish", "--repo", "owner/meanwhile"), told)
        assert hub.files("owner/meanwhile") == {path: data}


def test_equal_rows_are_no_new_version(hub: HubServer, client: Client, copy: Path) -> None:
    words = ("publish", "--repo", "owner/same")
    assert client.run(*words, folder=copy).code == 0
    manifest = copy / "data/indus_cot/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seconds": 1234.5}))
    assert "nothing changed: no commit" in client.run(*words, folder=copy).out
    assert len(hub.repository("owner/same").commits) == 2


def test_review_of_earlier_draft_is_ignored(hub: HubServer, client: Client, copy: Path) -> None:
    assert client.run("publish", "--repo", "owner/reviews", folder=copy).code == 0
    assert [path for path in hub.files("owner/reviews") if path.startswith("review/")]
    path = copy / "data/review"
    reviews = REVIEW.records(REVIEW.read(path / "reviews.parquet"))
    path.unlink()
    path.mkdir()
    earlier = [review.model_copy(update={"draft_sha256": "0" * 64}) for review in reviews]
    REVIEW.write(REVIEW.frame(earlier), path / "reviews.parquet")
    assert_refused(
        client.run("publish", "--repo", "owner/reviews", folder=copy),
        "was assembled before data/review/reviews.parquet changed",
        "repro assemble",
    )
    mark_validated(copy)
    assert client.run("publish", "--repo", "owner/reviews", folder=copy).code == 0
    assert not [path for path in hub.files("owner/reviews") if path.startswith("review/")]
