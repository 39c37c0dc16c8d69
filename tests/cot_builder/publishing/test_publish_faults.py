"""The Hub, the connection or the disk fails while a dataset is published."""

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, Rows, assert_refused, change, reword
from tests.servers.hub_server import HubServer


def test_interrupted_upload_keeps_uploaded_files(hub: HubServer, client: Client, copy: Path) -> None:
    def marked(rows: Rows) -> None:
        for row in rows:
            row["teacher"] = "another"

    change(copy, marked)
    start = len(hub.uploads)
    hub.fail("PUT /_lfs", 400, times=99, after=5)
    assert_refused(client.run("publish", "--repo", "owner/cut", folder=copy), "the Hub refuses")
    arrived = len(hub.uploads) - start
    assert arrived and len(hub.repository("owner/cut").commits) == 1
    hub.faults.clear()
    there, asked = set(hub.large), len(hub.seen)
    assert client.run("publish", "--repo", "owner/cut", folder=copy).code == 0
    sent = {path.rpartition("/")[2] for path in hub.seen[asked:] if path.startswith("PUT /_lfs/")}
    assert sent and not sent & there, "what had arrived is not sent again"
    assert [path for path in hub.files("owner/cut") if path.startswith("sft/")]


@pytest.mark.parametrize("status", [403, 404])
def test_next_run_compares_what_was_not(hub: HubServer, client: Client, copy: Path, status: int) -> None:
    words = ("publish", "--repo", f"owner/unseen-{status}")
    hub.fail("/resolve/", status, times=999)
    assert_refused(client.run(*words, folder=copy), "is committed as", "run the same command again")
    hub.faults.clear()
    done = client.run(*words, folder=copy)
    assert "nothing changed: no commit" in done.out and "rows loaded back, every hash as written" in done.out
    assert "loaded back" not in client.run(*words, folder=copy).out


def test_a_refused_commit_leaves_no_doubt(hub: HubServer, client: Client, copy: Path) -> None:
    hub.fail("POST /api/datasets/owner/forbidden/commit", 403)
    done = client.run("publish", "--repo", "owner/forbidden", folder=copy)
    assert_refused(done, "may not write or read there (403)")
    assert "not known" not in done.out and "is committed" not in done.out, done.out


def test_untagged_commit_is_reported(hub: HubServer, client: Client, copy: Path) -> None:
    words = ("publish", "--repo", "owner/untagged", "--tag")
    hub.fail("POST /api/datasets/owner/untagged/tag", 403)
    assert_refused(
        client.run(*words, folder=copy), "may not write or read there (403)", "is committed, without the tag v1.0.0"
    )
    assert not hub.repository("owner/untagged").tags
    assert client.run(*words, folder=copy).code == 0
    assert hub.repository("owner/untagged").tags == {"v1.0.0": hub.repository("owner/untagged").refs["main"]}


@pytest.mark.parametrize(
    ("part", "status", "retry_after", "when"),
    [
        ("whoami", 429, "1", ""),
        ("preupload", 500, "", ""),
        ("PUT /_lfs", 0, "", "half"),
        ("POST /api/datasets/owner/weather/commit", 0, "", ""),
        ("POST /api/datasets/owner/weather/commit", 0, "", "done"),
    ],
)
def test_bad_weather_passes(
    hub: HubServer, client: Client, copy: Path, part: str, status: int, retry_after: str, when: str
) -> None:
    name = "owner/weather"
    before = len(hub.repository(name).commits) if ("datasets", name) in hub.repositories else 1
    hub.fail(part, status, retry_after=retry_after, when=when)
    change(copy, lambda rows: rows[0].update(teacher=f"weather {part.partition(' ')[0]} {when}"))
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0 and "every hash as written" in done.out, done.out
    assert hub.faults[0].times == 0 and len(hub.repository(name).commits) == before + 1


def test_rate_limit_wait_is_respected(hub: HubServer, client: Client, published: CommandResult) -> None:
    """The client's clock is not waited for: it notes what it would have waited."""
    client.python(
        "import types; from cot_builder.storage import retry\n"
        "retry.kept, retry.waits = retry.time, []\n"
        "retry.time = types.SimpleNamespace(sleep=retry.waits.append, time=retry.kept.time)"
    )
    for said in ("90", formatdate(time.time() + 300, usegmt=True), "soon"):
        hub.fail("whoami", 429, retry_after=said)
    words = ("publish", "--repo", REPO, "--dry-run")
    done = client.run(*words)
    number, date, _ = client.python("from cot_builder.storage import retry; value = retry.waits")
    assert done.code == 0 and number == 90 and 200 < date <= 300 and "retrying in 90 s" in done.out, done.out
    hub.fail("whoami", 429, retry_after="7200")
    assert_refused(client.run(*words), "the Hub answers 429", "asks to wait 120 minutes")
    client.python("from cot_builder.storage import retry; retry.time = retry.kept")


def test_hub_down_gives_one_message(hub: HubServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("whoami", 503, times=99)
    client.python("from cot_builder.storage import retry; retry.BACKOFF_S = 0.01")
    assert_refused(
        client.run("publish", "--repo", REPO), "the Hub answers 503, after 5 attempts", "nothing was committed"
    )


FULL = """
from pathlib import Path
import pyarrow
kept = pyarrow.output_stream, Path.open
# Shards and downloads are written to a device that has no room.
def shard(path, **named):
    return kept[0]("/dev/full", **named)
def incomplete(path, *arguments, **named):
    return kept[1](Path("/dev/full") if path.name.endswith(".incomplete") else path, *arguments, **named)
pyarrow.full = kept
pyarrow.output_stream, Path.open = shard, incomplete
"""


def test_a_full_disk_changes_nothing(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    assert client.run("publish", "--repo", REPO, "--dry-run", folder=copy).code == 0
    before = {path: path.read_bytes() for path in (copy / "data/publish").rglob("*") if path.is_file()}
    change(copy, lambda rows: reword(rows[2]))
    hub.make("owner/unread")
    hub.put("owner/unread", "sft/train/0.parquet", b"never read")
    client.python(FULL)
    try:
        assert_refused(client.run("publish", "--repo", "owner/full", folder=copy), "disk is full", "data/publish")
        assert client.run("rehydrate", str(copy / "data/publish"), "--to", "whole", folder=copy).code == 1
        assert_refused(client.run("rehydrate", "owner/unread", "--to", "whole", folder=copy), "disk is full", "HF_HOME")
    finally:
        client.python("import pyarrow; from pathlib import Path; pyarrow.output_stream, Path.open = pyarrow.full")
    assert ("datasets", "owner/full") not in hub.repositories and not (copy / "whole").exists()
    assert {path: path.read_bytes() for path in (copy / "data/publish").rglob("*") if path.is_file()} == before
