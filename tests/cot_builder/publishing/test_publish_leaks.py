"""Secrets, names, paths and supervision in a corpus stop its publication."""

import json
import shutil
from pathlib import Path

import pytest

from schemas.review import REVIEW
from schemas.supervision import SUPERVISION
from schemas.trajectory import DRAFT
from tests.helpers.hub_client import Client
from tests.helpers.publication import Rows, assert_refused, change, mark_validated


def test_secret_in_rejected_chat_stops_publish(client: Client, copy: Path) -> None:
    """It is JSON within a row: a path with backslashes is written with four of each there."""
    path = copy / "data/draft"
    kept = path.resolve()
    path.unlink()
    shutil.copytree(kept, path)
    rejected = DRAFT.records(DRAFT.read(path / "rejected.parquet"))
    told = [
        item.model_copy(
            update={"trajectory": item.trajectory.replace("at length", r"seen in \\\\nas\\share\\x, at length")}
        )
        for item in rejected
    ]
    assert told != rejected
    DRAFT.write(DRAFT.frame(told), path / "rejected.parquet")
    assert_refused(client.run("publish", "--repo", "owner/never", folder=copy), "preference, row", "a local path")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"hf_{'a1' * 12}", "a secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a secret"),
        ("see /home/bob/parts.png", "a local path"),
        ("see `/home/bob/parts.png`", "a local path"),
        (f"\\nhf_{'a1' * 12}", "a secret"),
        ("\\n/srv/parts/1.png", "a local path"),
        ("C:\\\\Users\\\\bob", "a local path"),
        ("ask bob@example.org", "an e-mail address"),
    ],
)
def test_secret_text_stops_publish(client: Client, copy: Path, text: str, kind: str) -> None:
    def write(rows: Rows) -> None:
        for name in ("messages", "trajectory"):
            rows[3][name] = rows[3][name].replace("So it ends", f"So {text} it ends")
        assert text in rows[3]["messages"]

    change(copy, write)
    done = client.run("publish", "--repo", "owner/never", folder=copy)
    assert_refused(done, kind, "column messages", "nothing was published")
    assert text not in done.out


def test_verdict_unlike_trajectory_stops_publish(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[2].update(boxes=[[1, 2, 3, 4]]))
    assert_refused(client.run("publish", "--repo", "owner/never", folder=copy), "differ from its trajectory", "verify")


def test_reviewer_name_stops_publish(client: Client, copy: Path) -> None:
    path = copy / "data/review"
    reviews = REVIEW.records(REVIEW.read(path / "reviews.parquet"))
    path.unlink()
    path.mkdir()
    REVIEW.write(REVIEW.frame([reviews[0].model_copy(update={"reviewer": "better words"})]), path / "reviews.parquet")
    mark_validated(copy)
    assert_refused(client.run("publish", "--repo", "owner/never", folder=copy), "holds a reviewer's name")


def test_supervision_in_a_chat_stops_it(client: Client, copy: Path) -> None:
    def tell(rows: Rows) -> None:
        chat = json.loads(rows[1]["messages"])
        chat[1]["defect_type"] = "scratch"
        rows[1]["messages"] = json.dumps(chat)

    change(copy, tell)
    assert_refused(client.run("publish", "--repo", "owner/never", folder=copy), "supervision field defect_type", "row ")


def test_tools_of_another_version_stop_it(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[1].update(tools="[]"))
    assert_refused(
        client.run("publish", "--repo", "owner/never", folder=copy), "tools: differ from the tools of this version"
    )


@pytest.mark.parametrize("where", ["taken", "turned down"])
def test_image_path_in_chat_stops_publish(client: Client, copy: Path, where: str) -> None:
    """A benchmark's folders say what is wrong with the part."""
    paths = dict(
        SUPERVISION.read(copy / "data/select/supervision.parquet").select("sample_id", "source_path").iter_rows()
    )

    def tell(text: str, sample: str) -> str:
        assert "it ends for" in text or "Something is, at length, off" in text
        told = f"it ends, see {paths[sample]}, for"
        return text.replace("it ends for", told).replace("Something is, at length, off", f"As {paths[sample]} says")

    if where == "taken":
        change(
            copy,
            lambda rows: rows[2].update(
                {name: tell(rows[2][name], rows[2]["sample_id"]) for name in ("messages", "trajectory", "tagged")}
            ),
        )
    else:
        draft = copy / "data/draft"
        source = draft.resolve()
        draft.unlink()
        shutil.copytree(source, draft)
        path = draft / "rejected.parquet"
        told = [
            item.model_copy(update={"trajectory": tell(item.trajectory, item.sample_id)})
            if "Something is, at length, off" in item.trajectory
            else item
            for item in DRAFT.records(DRAFT.read(path))
        ]
        DRAFT.write(DRAFT.frame(told), path)
    assert_refused(client.run("publish", "--repo", "owner/never", folder=copy), "supervision field source_path", "row ")


def test_no_supervision_column_for_students(monkeypatch: pytest.MonkeyPatch) -> None:
    from cot_builder.publishing import configs
    from schemas.errors import IndusCotError

    configs.features.cache_clear()
    monkeypatch.setitem(configs.COLUMNS["preference"], "boxes", configs.COLUMNS["rl"]["boxes"])
    with pytest.raises(IndusCotError, match="preference is shown to students and must not have the column boxes"):
        configs.features("preference")
    configs.features.cache_clear()
