"""Pushing drafts and pulling reviews with a real server: nothing is duplicated, lost or changed by accident."""

import json
import re

import httpx
import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from label_studio_sdk.converter import brush

from annotation import page
from cot_builder.corpus.reviews import read_reviews
from cot_builder.storage.workspace import Workspace
from tests.helpers.review_project import Project, Result, build_judgement, change_draft, edit_result, find_draft_ids


def test_second_push_changes_nothing(project: Project) -> None:
    drafts = project.drafts()["draft_id"].to_list()
    assert f"{len(drafts)} tasks new" in project.run_ok("review", "push")
    before = project.tasks()
    assert sorted(before) == drafts
    assert f"0 tasks new, 0 updated, 0 repaired, {len(drafts)} unchanged" in project.run_ok("review", "push")
    assert project.tasks() == before
    assert project.client.projects.get(id=project.number).label_config == page.build_config(masks=True)


def test_unedited_acceptance_changes_nothing(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid)
    assert "1 new or changed, 1 in all" in project.run_ok("review", "pull")
    row = project.reviews()[uid]
    assert (row.verdict, row.changes, row.problems) == ("accepted", [], [])
    assert row.trajectory == project.drafts().filter(pl.col("draft_id") == uid)["trajectory"].item()
    assert (row.seconds, row.reviewer) == (12.5, project.server.email)
    rows = project.corpus()
    assert dict(rows["review_status"].value_counts().iter_rows()) == {"accepted": 1, "auto": rows.height - 1}


def test_edited_call_is_executed_again(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    trajectory = json.loads(project.drafts().filter(pl.col("draft_id") == uid)["trajectory"].item())
    number = next(
        i for i, turn in enumerate(trajectory["turns"]) if turn["call"] and turn["call"]["arguments"].get("region")
    )
    before = trajectory["turns"][number]
    x1, y1, x2, y2 = before["call"]["arguments"]["region"]
    region = [max(0, x1 - 20), max(0, y1 - 20), min(1000, x2 + 10), min(1000, y2 + 10)]
    left, top, right, bottom = (side / 10 for side in region)
    moved = edit_result(f"call_{number}", x=left, y=top, width=right - left, height=bottom - top)

    def edit(result: Result) -> Result:
        rectangle = [item for item in result if item["type"] == "rectanglelabels" and item["id"] == f"call_{number}"]
        rest = [item for item in result if item not in rectangle]
        return rest + moved(rectangle)

    project.review(uid, edit)
    project.run_ok("review", "pull")
    row = project.reviews()[uid]
    assert row.problems == [], row.problems
    assert [change.field for change in row.changes] == [f"turns.{number}.call"]
    after = json.loads(row.trajectory)["turns"][number]
    assert after["call"]["arguments"]["region"] == region
    assert after["observation"]["image_sha256"] != before["observation"]["image_sha256"]
    fixed = project.corpus().filter(pl.col("review_status") == "fixed")
    assert fixed["sample_id"].to_list() == [uid.rpartition("#")[0]]
    assert fixed["trajectory"].item() == row.trajectory
    assert "all equal" in project.run_ok("verify")


def test_edits_are_pulled_exactly(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    row = project.drafts().filter(pl.col("draft_id") == uid).row(0, named=True)
    thought = json.loads(row["trajectory"])["turns"][0]["thought"]
    words = f'{thought} An expert adds "quotes" & émoji 🔩, שלום.'.replace('"quotes"', "words")
    x1, y1, x2, y2 = row["boxes"][0]
    x1 = x1 + 1
    moved = edit_result("box_0", x=x1 / 10, width=(x2 - x1) / 10)
    task = project.tasks()[uid]["id"]
    result = moved(edit_result("think_0", text=[words])(project.get_prefill(task))) + build_judgement("fixed")
    project.client.annotations.create(id=task, result=result, lead_time=3.0)
    project.run_ok("review", "pull")
    review = project.reviews()[uid]
    assert review.problems == [], review.problems
    assert {change.field: change.after for change in review.changes} == {
        "turns.0.thought": words,
        "verdict.boxes": json.dumps([[x1, y1, x2, y2], *map(list, row["boxes"][1:])]),
    }
    assert {change.field: change.before for change in review.changes}["turns.0.thought"] == thought


def test_rejected_draft_is_left_out(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid, verdict="reject", reasons=("wrong type", "poor reasoning"))
    project.run_ok("review", "pull")
    assert project.reviews()[uid].reasons == ["wrong type", "poor reasoning"]
    rows = project.corpus()
    assert uid.rpartition("#")[0] not in rows["sample_id"].to_list()
    left_out = (project.folder / "data/indus_cot/left_out.csv").read_text()
    assert "rejected by an expert" in left_out and "wrong type; poor reasoning" in left_out


def test_edit_failing_gate_is_sent_back(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid, edit_result("think_0", text=["The ground truth mask says there is a scratch on it."]), "fixed")
    assert "1 sent back to the reviewer" in project.run_ok("review", "pull")
    review = project.reviews()[uid]
    assert any(problem.startswith("leak:") for problem in review.problems)
    task = project.tasks()[uid]
    assert task["annotations"] == []
    assert "leak:" in task["data"]["returned"]
    assert "The ground truth mask says" in json.dumps(project.get_prefill(task["id"]))
    assert not any(item["from_name"] == "verdict" for item in project.get_prefill(task["id"]))
    # Another push keeps the reviewer's text and the reason.
    assert "0 updated, 0 repaired" in project.run_ok("review", "push")
    assert "leak:" in project.tasks()[uid]["data"]["returned"]
    assert set(project.corpus()["review_status"]) == {"auto"}
    project.review(uid, edit_result("think_0", text=["I look at the part as a whole and find one place odd."]), "fixed")
    project.run_ok("review", "pull")
    assert [row.problems == [] for row in read_reviews(Workspace(project.folder))] == [False, True]


def test_changed_draft_sets_review_aside(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid)
    change_draft(project, uid)
    printed = project.run_ok("review", "push")
    assert "1 updated" in printed and "1 reviews of changed drafts set aside" in printed
    review = project.reviews()[uid]
    assert review.verdict == "accepted", "the review of the old draft is kept"
    task = project.tasks()[uid]
    assert task["annotations"] == []
    assert task["data"]["draft_sha256"] != review.draft_sha256
    assert project.get_prefill(task["id"])
    rows = project.corpus()
    assert set(rows["review_status"]) == {"auto"}
    manifest = json.loads((project.folder / "data/indus_cot/manifest.json").read_text())
    assert manifest["counts"]["reviews of changed drafts"] == 1


def test_pull_is_incremental(project: Project) -> None:
    project.run_ok("review", "push")
    first, second = find_draft_ids(project)[:2]
    number = project.review(first)
    project.run_ok("review", "pull")
    project.review(second)
    assert "1 new or changed, 2 in all" in project.run_ok("review", "pull")
    assert "0 new or changed, 2 in all" in project.run_ok("review", "pull")
    task = project.tasks()[first]["id"]
    result = project.get_prefill(task) + build_judgement("reject", ("wrong location",))
    project.client.annotations.update(id=number, result=result)
    assert "1 new or changed, 2 in all" in project.run_ok("review", "pull")
    assert project.reviews()[first].verdict == "rejected"


def test_manual_deletions_are_repaired(project: Project) -> None:
    project.run_ok("review", "push")
    first, second, third = (find_draft_ids(project) + find_draft_ids(project, answer="No"))[:3]
    tasks = project.tasks()
    project.client.tasks.delete(id=str(tasks[first]["id"]))
    (prediction,) = project.client.predictions.list(task=tasks[second]["id"])
    project.client.predictions.delete(id=prediction.id)
    project.client.tasks.update(id=str(tasks[third]["id"]), data={"uid": third})
    project.client.projects.update(
        id=project.number,
        label_config='<View><Image name="image" value="$image"/><Choices name="x" toName="image"><Choice value="y"/></Choices></View>',
    )
    assert "1 tasks new, 1 updated, 1 repaired" in project.run_ok("review", "push")
    assert project.get_prefill(project.tasks()[second]["id"])
    assert "think_{{idx}}" in project.client.projects.get(id=project.number).label_config
    project.client.projects.delete(id=project.number)
    assert f"{project.drafts().height} tasks new" in project.run_ok("review", "push")


def test_skipped_and_duplicate_annotations(project: Project) -> None:
    project.run_ok("review", "push")
    skipped, emptied, twice = (find_draft_ids(project) + find_draft_ids(project, answer="No"))[:3]
    project.review(skipped, was_cancelled=True)
    project.client.annotations.create(id=project.tasks()[emptied]["id"], result=[], lead_time=1.0)
    project.review(twice, verdict="reject", reasons=("wrong type",))
    project.review(twice)
    printed = project.run_ok("review", "pull")
    assert "3 in all" in printed and "1 skipped" in printed and "1 sent back" in printed
    assert "no verdict was given" in project.reviews()[emptied].problems
    rows = project.corpus()
    assert rows.filter(pl.col("review_status") == "accepted")["sample_id"].to_list() == [twice.rpartition("#")[0]]


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_refusal_is_one_message(project: Project, verb: str) -> None:
    refused = project.run("review", verb, token="0" * 40)
    assert refused.returncode == 1
    assert "refuses the token" in refused.stderr and "Traceback" not in refused.stderr
    gone = project.run("review", verb, more=("review.url=http://127.0.0.1:9",))
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr and "Traceback" not in gone.stderr
    if verb == "pull":
        early = project.run("review", "pull", more=("review.project=nobody",))
        assert early.returncode == 1 and "review push" in early.stderr


def test_images_are_served(project: Project) -> None:
    project.run_ok("review", "push")
    task = project.tasks()[find_draft_ids(project)[0]]
    shown = [task["data"]["image"]]
    for step in task["data"]["steps"]:
        shown += [part.split('"')[0].replace("&amp;", "&") for part in step["observation"].split('src="')[1:]]
    assert len(shown) > 1
    for address in shown:
        answer = httpx.get(project.server.url + address, headers={"Authorization": f"Token {project.server.token}"})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/"), address


def test_second_push_is_locked_out(project: Project) -> None:
    with FileLock(project.folder / "data/.review.push-pull.lock"):
        second = project.run("review", "push")
    assert second.returncode == 1 and "another review push or pull" in second.stderr


def test_status_shows_random_audit(project: Project) -> None:
    project.settings = (*project.settings, "review.audit_share=0.5")
    project.run_ok("review", "push")
    drawn = [uid for uid, task in project.tasks().items() if task["data"]["audit"]]
    assert 0 < len(drawn) < len(project.tasks())
    project.review(drawn[0])
    project.review(drawn[1], verdict="reject", reasons=("wrong type",))
    project.run_ok("review", "pull")
    done = project.run("review", "status")
    printed = done.stdout + done.stderr
    assert f"2 of {len(project.tasks())} drafts decided" in printed
    assert f"by {project.server.email} 2" in printed
    # Wilson's interval for one success in two is 9.5 to 90.5 %.
    assert re.search(r"drawn at random +2 +1 +0 +50 % +9 to 91 %", printed), printed


def test_outdated_page_is_sent_back(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    old = project.get_prefill(project.tasks()[uid]["id"])
    change_draft(project, uid)
    project.run_ok("review", "push")
    task = project.tasks()[uid]["id"]
    project.client.annotations.create(id=task, result=old + build_judgement("accept"), lead_time=9.0)
    assert "1 sent back" in project.run_ok("review", "pull")
    (problem,) = project.reviews()[uid].problems
    assert "replaced while it was on the page" in problem
    found = project.tasks()[uid]
    assert found["annotations"] == [] and "replaced while" in found["data"]["returned"]
    assert project.get_prefill(task) != old
    assert set(project.corpus()["review_status"]) == {"auto"}


def test_review_of_broken_task_is_kept(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid, edit_result("think_0", text=["Words of an expert."]), "fixed")
    project.client.tasks.update(id=str(project.tasks()[uid]["id"]), data={"uid": uid})
    project.run_ok("review", "push")
    assert "Words of an expert." in project.reviews()[uid].result
    assert "changed by hand" in project.reviews()[uid].problems[0]
    assert project.tasks()[uid]["data"]["draft_sha256"]


def test_painted_mask_is_only_change(project: Project) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    (before,) = [item for item in project.get_prefill(project.tasks()[uid]["id"]) if item["type"] == "brushlabels"]
    painted = page.decode_mask([before])
    assert painted is not None and painted.any()
    more = painted | np.roll(painted, 5, axis=1)
    project.review(uid, edit_result("mask_0", rle=brush.mask2rle(more.astype(np.uint8) * 255)))
    project.run_ok("review", "pull")
    row = project.reviews()[uid]
    assert [change.field for change in row.changes] == ["mask"]
    assert (row.verdict, row.problems) == ("accepted", [])
    again = page.decode_mask(json.loads(row.result))
    assert again is not None and (again == more).all()
    assert set(project.corpus()["review_status"]) == {"auto", "accepted"}
