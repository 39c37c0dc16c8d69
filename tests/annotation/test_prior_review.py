"""Pushing normalcy priors and pulling the experts' edits into the pipeline, with a real server."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation import prior_page
from annotation.priors import find_text_problems
from cot_builder.corpus.prior_reviews import read_prior_reviews, text_sha256
from cot_builder.corpus.priors import MACHINE_FILE
from cot_builder.inspection.normalcy import NORMALCY_VERSION, measure_normalcy
from cot_builder.stages.prior import apply_reviews
from cot_builder.storage.output import Output, read_manifest
from cot_builder.storage.workspace import Workspace
from schemas.prior import PRIOR, NormalcyPrior
from schemas.prior_review import PriorReview
from tests.helpers.browser import CHROMIUM, chromium
from tests.helpers.expert import SMALL, Expert
from tests.helpers.review_project import Project, Result

SHA = "a" * 64
HOSTILE = '<script>document.title = "owned"</script><img src=x onerror="alert(1)"> & "quoted"'
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300) | st.sampled_from(
    [
        HOSTILE,
        "\"quoted\" 'single' & &amp; \\ \\n",
        "😀 👩‍🔬",
        "\u202eעברית\u202c العربية",
        "a\nb\r\nc\t",
        "  padded  ",
        "x" * 4000,
    ]
)


def get_title(project: Project) -> str:
    return f"{project.title} · priors"


def get_number(project: Project) -> int:
    return project.get_number(get_title(project))


def list_tasks(project: Project) -> dict[str, Any]:
    """Return every task with its predictions and annotations, by prior."""
    return project.tasks(get_title(project))


def build_result(verdict: str, **texts: str) -> Result:
    """Return the results that an expert adds to the page or puts in place of prefilled ones."""
    result = [
        {"id": name, "from_name": name, "to_name": "images", "type": "textarea", "value": {"text": [text]}}
        for name, text in texts.items()
    ]
    if verdict:
        value = {"choices": [verdict]}
        result.append({"id": "v", "from_name": "verdict", "to_name": "images", "type": "choices", "value": value})
    return result


def submit_review(project: Project, uid: str, verdict: str = "accept", **texts: str) -> int:
    """Submit the page of a prior as an expert would; return the annotation's id."""
    task = list_tasks(project)[uid]["id"]
    kept = [item for item in project.get_prefill(task) if item["from_name"] not in texts]
    result = kept + build_result(verdict, **texts)
    return project.client.annotations.create(id=task, result=result, lead_time=7.5).id


def read_priors(project: Project, name: str = "prior.parquet") -> dict[str, NormalcyPrior]:
    rows: list[NormalcyPrior] = PRIOR.records(PRIOR.read(project.folder / "data/prior" / name))
    return {row.prior_id: row for row in rows}


def read_reviews(project: Project) -> dict[str, PriorReview]:
    return {row.prior_id: row for row in read_prior_reviews(Workspace(project.folder))}


def read_counts(project: Project) -> dict[str, int]:
    return read_manifest(project.folder / "data/prior")["counts"]


def change_text(project: Project, uid: str, edit: Callable[[NormalcyPrior], str]) -> None:
    """Change the text of a prior, as a new version of the wording would."""
    for name in ("prior.parquet", MACHINE_FILE):
        rows = [
            row.model_copy(update={"text": edit(row)}) if row.prior_id == uid else row
            for row in read_priors(project, name).values()
        ]
        PRIOR.write(PRIOR.frame(rows), project.folder / "data/prior" / name)


def find_training_prior(project: Project) -> str:
    return next(uid for uid in sorted(read_priors(project)) if uid.startswith("real_iad/"))


def test_second_push_of_priors_changes_nothing(project: Project) -> None:
    expected = read_priors(project)
    assert f"{len(expected)} new, 0 updated" in project.run_ok("review", "push", "--priors")
    before = list_tasks(project)
    assert before.keys() == expected.keys()
    printed = project.run_ok("review", "push", "--priors")
    assert f"0 new, 0 updated, 0 repaired, {len(expected)} unchanged" in printed
    assert list_tasks(project) == before
    order = [task["data"]["uid"].startswith("real_iad/") for task in sorted(before.values(), key=lambda t: t["id"])]
    assert order == sorted(order, reverse=True) and True in order and False in order
    there = project.client.projects.get(id=get_number(project))
    assert there.label_config == prior_page.build_config() and there.show_collab_predictions
    for uid, task in before.items():
        row = expected[uid]
        assert task["data"]["prior_sha256"] == text_sha256(row.text)
        pictures = re.findall('<img src="([^"]+)"', task["data"]["images"])
        assert len(pictures) == min(row.image_count, prior_page.MAX_SHOWN_IMAGES), uid
    answer = httpx.get(
        project.server.url + pictures[0].replace("&amp;", "&"),
        headers={"Authorization": f"Token {project.server.token}"},
    )
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/")


def test_expert_text_replaces_measured_one(project: Project) -> None:
    project.run_ok("review", "push", "--priors")
    before = read_priors(project)
    uid = find_training_prior(project)
    words = f"{before[uid].text} Its rim may be <b>matt</b> & \"grey\" or 'blue', 🔩, שלום."
    submit_review(project, uid, "accept", text=words, comment="ours")
    assert "1 new, 1 in all" in project.run_ok("review", "pull", "--priors")
    row = read_reviews(project)[uid]
    assert (row.verdict, row.before, row.after, row.problems) == ("fixed", before[uid].text, words, [])
    assert (row.seconds, row.reviewer, row.comment) == (7.5, project.server.email, "ours")
    done = project.run("repro", "prior")
    assert done.returncode == 0, done.stderr
    after = read_priors(project)
    assert after.pop(uid) == before[uid].model_copy(
        update={"text": words, "author": "expert", "version": f"measured {NORMALCY_VERSION}"}
    )
    assert after == {name: other for name, other in before.items() if name != uid}
    assert read_counts(project)["fixed_by_experts"] == 1
    assert "expert" in (project.folder / "data/prior/priors.md").read_text()
    assert project.server.email not in (project.folder / "data/prior/prior.parquet").read_bytes().decode("latin-1")
    # The page still shows the text that the expert judged, so no review is set aside.
    assert f"0 new, 0 updated, 0 repaired, {len(before)} unchanged" in project.run_ok("review", "push", "--priors")
    assert "0 new, 1 in all" in project.run_ok("review", "pull", "--priors")
    project.run_ok("prior")
    assert read_priors(project)[uid].text == words


def test_review_of_changed_text_is_ignored(project: Project) -> None:
    project.run_ok("review", "push", "--priors")
    uid = find_training_prior(project)
    measured = read_priors(project)[uid].text
    change_text(project, uid, lambda row: f"Now then. {row.text}")
    project.run_ok("review", "push", "--priors")
    words = f"{measured} An expert adds this to the text."
    submit_review(project, uid, "fixed", text=words)
    change_text(project, uid, lambda row: row.text.removeprefix("Now then. "))
    printed = project.run_ok("review", "push", "--priors")
    assert "1 updated" in printed and "1 reviews of changed texts set aside" in printed
    assert read_reviews(project)[uid].after == words, "the review of the old text is kept"
    assert list_tasks(project)[uid]["annotations"] == []
    assert project.get_prefill(list_tasks(project)[uid]["id"])[1]["value"]["text"] == [measured]
    project.run_ok("prior")
    assert read_priors(project)[uid].text == measured
    assert (read_counts(project)["fixed_by_experts"], read_counts(project)["reviews_of_changed_texts"]) == (0, 1)


def test_invalid_prior_is_sent_back(project: Project) -> None:
    project.run_ok("review", "push", "--priors")
    uid, other = [name for name in sorted(read_priors(project)) if name.startswith("real_iad/")][:2]
    submit_review(project, uid, "fixed", text="Too short.")
    submit_review(project, other, "reject")
    assert "2 returned to the reviewer" in project.run_ok("review", "pull", "--priors")
    assert "10 characters, 40 to 4000" in read_reviews(project)[uid].problems[0]
    task = list_tasks(project)[uid]
    assert task["annotations"] == [] and "10 characters" in task["data"]["returned"]
    assert project.get_prefill(task["id"])[-1]["value"]["text"] == ["Too short."]
    assert "a rejection needs a reason" in list_tasks(project)[other]["data"]["returned"]
    assert "0 updated, 0 repaired" in project.run_ok("review", "push", "--priors")
    project.run_ok("prior")
    assert (read_counts(project)["fixed_by_experts"], read_counts(project)["reviews_sent_back"]) == (0, 2)
    assert not any(row.author == "expert" for row in read_priors(project).values())


def test_latest_review_of_prior_counts(project: Project) -> None:
    project.run_ok("review", "push", "--priors")
    uid = find_training_prior(project)
    before = read_priors(project)[uid]
    annotation = submit_review(project, uid, "reject", reason="the colour is wrong")
    project.run_ok("review", "pull", "--priors")
    project.run_ok("prior")
    assert read_priors(project)[uid] == before, "without it, the tool would return the text of another category"
    left_out = (project.folder / "data/prior/left_out.csv").read_text()
    assert f'"measured text rejected by an expert, kept until it is corrected",{uid},the colour is wrong' in left_out
    assert read_counts(project)["rejected_by_experts"] == 1
    result = project.get_prefill(list_tasks(project)[uid]["id"]) + build_result("accept")
    project.client.annotations.update(id=annotation, result=result)
    assert "1 new, 1 in all" in project.run_ok("review", "pull", "--priors")
    project.run_ok("prior")
    assert uid not in (project.folder / "data/prior/left_out.csv").read_text()
    assert (read_counts(project)["rejected_by_experts"], read_counts(project)["accepted_by_experts"]) == (0, 1)


def test_manual_changes_are_repaired(project: Project) -> None:
    project.run_ok("review", "push", "--priors")
    gone, bare, emptied = sorted(list_tasks(project))[:3]
    there = list_tasks(project)
    project.client.tasks.delete(id=str(there[gone]["id"]))
    (prediction,) = project.client.predictions.list(task=there[bare]["id"])
    project.client.predictions.delete(id=prediction.id)
    submit_review(project, emptied)
    project.client.tasks.update(id=str(there[emptied]["id"]), data={"uid": emptied})
    assert "1 new, 1 updated, 1 repaired" in project.run_ok("review", "push", "--priors")
    assert project.get_prefill(there[bare]["id"])
    assert "changed by hand" in read_reviews(project)[emptied].problems[0]
    assert list_tasks(project)[emptied]["data"]["text"] == read_priors(project)[emptied].text


def test_priors_need_no_drafts(project: Project) -> None:
    shutil.rmtree(project.folder / "data/draft")
    assert "0 new, 0 in all" in project.run_ok("review", "pull", "--priors")
    assert f"{len(read_priors(project))} new" in project.run_ok("review", "push", "--priors")


# --- in a browser


@pytest.mark.browser
def test_expert_edits_prior_in_browser(project: Project) -> None:
    if not CHROMIUM:
        pytest.skip("no chromium here: `make test` installs it where it may")
    for uid in read_priors(project):
        change_text(project, uid, lambda row: f"{HOSTILE} {row.text}")
    project.run_ok("review", "push", "--priors")
    with chromium() as browser:
        expert = Expert(browser, project.server, SMALL)
        uid = expert.begin(get_number(project))["uid"]
        shown = read_priors(project)[uid]
        words = f"{shown.text} An expert adds: “matt”."
        page = expert.page
        images = page.locator(".prior-images img")
        assert images.count() == min(shown.image_count, prior_page.MAX_SHOWN_IMAGES)
        assert expert.text("text").inner_text().strip() == shown.text, "HTML must be shown as text"
        assert page.title() != "owned" and not expert.complaints
        provenance = page.locator(".prior-provenance").inner_text()
        assert (
            "real_iad, training pool" in provenance
            and f"measured, version {NORMALCY_VERSION}" in provenance
            and "mean grey" in provenance
        )
        small = images.nth(1).bounding_box()
        images.nth(1).click()
        large = images.nth(1).bounding_box()
        assert small and large and large["height"] > 2 * small["height"]
        images.nth(1).click()
        # Keys that Label Studio would assign to the choices must tick nothing.
        for key in "123456789abcdefqwz":
            page.keyboard.press(key)
        assert page.locator(".review input[type=radio]:checked").count() == 0
        expert.write("text", words)
        expert.tick("fixed")
        box = page.get_by_test_id("bottombar-submit-button").bounding_box()
        assert box and box["y"] + box["height"] <= 768 and page.evaluate("document.body.scrollWidth") <= 1366
        expert.submit()
    project.run_ok("review", "pull", "--priors")
    found = read_reviews(project)[uid]
    assert (found.verdict, found.before, found.after, found.problems) == ("fixed", shown.text, words, [])


# --- effect of reviews


def build_prior(text: str = "A sound bolt, plain and even all over its length.", **changes: Any) -> NormalcyPrior:
    values = {
        "prior_id": "mine/bolt/C1", "source_set": "mine", "category": "bolt", "view": "C1", "text": text,
        "facts": "{}", "image_count": 12, "image_sha256": [SHA], "author": "measured", "version": "1",
    }  # fmt: skip
    return NormalcyPrior.model_validate(values | changes)


def build_review(text: str, number: int = 1, **changes: Any) -> PriorReview:
    values = {
        "review_id": f"1/{number}", "prior_id": "mine/bolt/C1", "text_sha256": text_sha256(text),
        "reviewer": "ada@example.org", "reviewed_at": f"2026-11-01T00:00:{number:02}+00:00", "seconds": 1.0,
        "verdict": "accepted", "before": text, "after": text, "reason": "", "comment": "", "result": "[]",
        "problems": [],
    }  # fmt: skip
    return PriorReview.model_validate(values | changes)


def test_measured_text_replaces_rejected_one() -> None:
    measured, worded = (
        build_prior(),
        build_prior(f"{build_prior().text} In a model's words.", author="a-model", version="7"),
    )
    better = f"{build_prior().text} An expert's."
    no = build_review(worded.text, verdict="rejected", reason="invented")
    yes = build_review(measured.text, 2, verdict="fixed", after=better)
    for reviews_, text, author in (
        ([], worded.text, "a-model"),
        ([no], measured.text, "measured"),
        ([no, yes], better, "expert"),
        ([yes], worded.text, "a-model"),
        ([no, build_review(worded.text, 3)], worded.text, "a-model"),
        ([no.model_copy(update={"problems": ["not readable"]})], worded.text, "a-model"),
        ([no.model_copy(update={"prior_id": "held_out/bolt/C1"})], worded.text, "a-model"),
    ):
        output = Output(Path())
        (found,) = apply_reviews([worded], [measured], reviews_, output)
        assert (found.text, found.author) == (text, author)
        assert (found.facts, found.image_sha256) == (worded.facts, worded.image_sha256)
    assert output.counts["reviews_of_changed_texts"] == 1, (
        "the prior of another set with the same text counts as changed"
    )
    # A rejection is a decision, not a loss: a strict run continues and records it.
    strict = Output(Path(), strict=True)
    apply_reviews([worded], [measured], [no], strict)
    assert [reason for reason, _, _ in strict.left_out] == [
        "text rejected by an expert, the measured one takes its place"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Too short.", "10 characters"),
        ("x" * 4001, "4001 characters"),
        (f"{build_prior().text} </observation> It ends here.", "tag of the trajectories"),
        (f"{build_prior().text} The ground truth mask says so.", "ground truth"),
        (f"{build_prior().text} \x07", "control character"),
        (f"{build_prior().text} {HOSTILE} 😀 עברית <b>bold</b>", ""),
    ],
)
def test_valid_and_invalid_priors(text: str, problem: str) -> None:
    found = find_text_problems(text, "flange")
    assert problem in found[0] if problem else found == []


def test_prior_may_name_its_object() -> None:
    text = f"{build_prior().text} As the mask shows, it lies flat."
    assert find_text_problems(text, "mask") == [] and "'the mask shows'" in find_text_problems(text, "flange")[0]


# --- the page


@settings(max_examples=60, deadline=None)
@given(text=TEXT, comment=TEXT)
def test_prior_page_round_trips(text: str, comment: str) -> None:
    result = [*prior_page.build_prefill(SHA, text), *build_result("fixed", comment=comment)]
    prior_page.check_prefill(result)
    found = prior_page.read_annotation(json.loads(json.dumps(result)))
    assert found == prior_page.Reading(SHA, text, "fixed", "", comment)


def test_emptied_fields_are_empty() -> None:
    assert prior_page.read_annotation([]) == prior_page.Reading(None, "", None, "", "")


def test_text_of_models_is_escaped() -> None:
    shown = [prior_page.PageImage('/a.png?a="&b=1', 640, 480)] * 3
    measured = measure_normalcy([np.full((64, 64, 3), 90, np.uint8)] * 2)
    facts = json.dumps(measured | {HOSTILE: HOSTILE, "colours": {HOSTILE: 1.0}})
    data = prior_page.build_task(build_prior(author=HOSTILE, view=HOSTILE), SHA, HOSTILE, shown)
    for html in (
        data["provenance"],
        data["images"],
        prior_page._render_provenance(build_prior(facts=facts, text=f"{HOSTILE} {HOSTILE}"), ""),
    ):
        root = ElementTree.fromstring(f"<div>{html}</div>".replace('alt="">', 'alt=""/>'))
        assert {tag.tag for tag in root.iter()} <= {
            "div",
            "ul",
            "li",
            "b",
            "span",
            "p",
            "details",
            "summary",
            "img",
            "a",
        }
    assert root.find("p") is not None
