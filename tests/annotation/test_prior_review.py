"""Normalcy priors to Label Studio and the experts' edits back into the pipeline, with a real server."""

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


def title(project: Project) -> str:
    return f"{project.title} · priors"


def number(project: Project) -> int:
    return project.numbered(title(project))


def tasks(project: Project) -> dict[str, Any]:
    """Every task with its predictions and annotations, by prior."""
    return project.tasks(title(project))


def judged(verdict: str, **texts: str) -> Result:
    """What an expert adds to the page, or puts in place of what prefilled it."""
    result = [
        {"id": name, "from_name": name, "to_name": "images", "type": "textarea", "value": {"text": [text]}}
        for name, text in texts.items()
    ]
    if verdict:
        value = {"choices": [verdict]}
        result.append({"id": "v", "from_name": "verdict", "to_name": "images", "type": "choices", "value": value})
    return result


def review(project: Project, uid: str, verdict: str = "accept", **texts: str) -> int:
    """Submit the page of a prior as an expert would; the annotation's id."""
    task = tasks(project)[uid]["id"]
    kept = [item for item in project.prefilled(task) if item["from_name"] not in texts]
    result = kept + judged(verdict, **texts)
    return project.client.annotations.create(id=task, result=result, lead_time=7.5).id


def priors(project: Project, name: str = "prior.parquet") -> dict[str, NormalcyPrior]:
    rows: list[NormalcyPrior] = PRIOR.records(PRIOR.read(project.folder / "data/prior" / name))
    return {row.prior_id: row for row in rows}


def reviews(project: Project) -> dict[str, PriorReview]:
    return {row.prior_id: row for row in read_prior_reviews(Workspace(project.folder))}


def counts(project: Project) -> dict[str, int]:
    return read_manifest(project.folder / "data/prior")["counts"]


def reword(project: Project, uid: str, edit: Callable[[NormalcyPrior], str]) -> None:
    """As a new version of the machine's wording might."""
    for name in ("prior.parquet", MACHINE_FILE):
        rows = [
            row.model_copy(update={"text": edit(row)}) if row.prior_id == uid else row
            for row in priors(project, name).values()
        ]
        PRIOR.write(PRIOR.frame(rows), project.folder / "data/prior" / name)


def first(project: Project) -> str:
    return next(uid for uid in sorted(priors(project)) if uid.startswith("real_iad/"))


def test_push_twice_changes_nothing_and_training_priors_come_first(project: Project) -> None:
    expected = priors(project)
    assert f"{len(expected)} new, 0 updated" in project.ok("review", "push", "--priors")
    before = tasks(project)
    assert before.keys() == expected.keys()
    said = project.ok("review", "push", "--priors")
    assert f"0 new, 0 updated, 0 repaired, {len(expected)} unchanged" in said
    assert tasks(project) == before
    order = [task["data"]["uid"].startswith("real_iad/") for task in sorted(before.values(), key=lambda t: t["id"])]
    assert order == sorted(order, reverse=True) and True in order and False in order
    there = project.client.projects.get(id=number(project))
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


def test_an_experts_text_takes_the_place_of_the_measured_one_and_nothing_else_changes(project: Project) -> None:
    project.ok("review", "push", "--priors")
    before = priors(project)
    uid = first(project)
    words = f"{before[uid].text} Its rim may be <b>matt</b> & \"grey\" or 'blue', 🔩, שלום."
    review(project, uid, "accept", text=words, comment="ours")
    assert "1 new, 1 in all" in project.ok("review", "pull", "--priors")
    row = reviews(project)[uid]
    assert (row.verdict, row.before, row.after, row.problems) == ("fixed", before[uid].text, words, [])
    assert (row.seconds, row.reviewer, row.comment) == (7.5, project.server.email, "ours")
    done = project.run("repro", "prior")
    assert done.returncode == 0, done.stderr
    after = priors(project)
    assert after.pop(uid) == before[uid].model_copy(
        update={"text": words, "author": "expert", "version": f"measured {NORMALCY_VERSION}"}
    )
    assert after == {name: other for name, other in before.items() if name != uid}
    assert counts(project)["fixed_by_experts"] == 1
    assert "expert" in (project.folder / "data/prior/priors.md").read_text()
    assert project.server.email not in (project.folder / "data/prior/prior.parquet").read_bytes().decode("latin-1")
    # The page still holds what the expert judged: nothing is set aside, nothing asked again.
    assert f"0 new, 0 updated, 0 repaired, {len(before)} unchanged" in project.ok("review", "push", "--priors")
    assert "0 new, 1 in all" in project.ok("review", "pull", "--priors")
    project.ok("prior")
    assert priors(project)[uid].text == words


def test_a_review_of_a_text_that_has_changed_is_not_applied_and_counted(project: Project) -> None:
    project.ok("review", "push", "--priors")
    uid = first(project)
    measured = priors(project)[uid].text
    reword(project, uid, lambda row: f"Now then. {row.text}")
    project.ok("review", "push", "--priors")
    words = f"{measured} An expert adds this to the text."
    review(project, uid, "fixed", text=words)
    reword(project, uid, lambda row: row.text.removeprefix("Now then. "))
    said = project.ok("review", "push", "--priors")
    assert "1 updated" in said and "1 reviews of changed texts set aside" in said
    assert reviews(project)[uid].after == words, "what was said of the old text is kept"
    assert tasks(project)[uid]["annotations"] == []
    assert project.prefilled(tasks(project)[uid]["id"])[1]["value"]["text"] == [measured]
    project.ok("prior")
    assert priors(project)[uid].text == measured
    assert (counts(project)["fixed_by_experts"], counts(project)["reviews_of_changed_texts"]) == (0, 1)


def test_what_cannot_be_a_prior_goes_back_with_the_reason_and_the_words(project: Project) -> None:
    project.ok("review", "push", "--priors")
    uid, other = [name for name in sorted(priors(project)) if name.startswith("real_iad/")][:2]
    review(project, uid, "fixed", text="Too short.")
    review(project, other, "reject")
    assert "2 returned to the reviewer" in project.ok("review", "pull", "--priors")
    assert "10 characters, 40 to 4000" in reviews(project)[uid].problems[0]
    task = tasks(project)[uid]
    assert task["annotations"] == [] and "10 characters" in task["data"]["returned"]
    assert project.prefilled(task["id"])[-1]["value"]["text"] == ["Too short."]
    assert "a rejection needs a reason" in tasks(project)[other]["data"]["returned"]
    assert "0 updated, 0 repaired" in project.ok("review", "push", "--priors")
    project.ok("prior")
    assert (counts(project)["fixed_by_experts"], counts(project)["reviews_sent_back"]) == (0, 2)
    assert not any(row.author == "expert" for row in priors(project).values())


def test_a_rejected_text_is_named_and_the_last_word_counts(project: Project) -> None:
    project.ok("review", "push", "--priors")
    uid = first(project)
    before = priors(project)[uid]
    annotation = review(project, uid, "reject", reason="the colour is wrong")
    project.ok("review", "pull", "--priors")
    project.ok("prior")
    assert priors(project)[uid] == before, "the tool would else answer with another category's"
    left_out = (project.folder / "data/prior/left_out.csv").read_text()
    assert f'"measured text rejected by an expert, kept until it is corrected",{uid},the colour is wrong' in left_out
    assert counts(project)["rejected_by_experts"] == 1
    result = project.prefilled(tasks(project)[uid]["id"]) + judged("accept")
    project.client.annotations.update(id=annotation, result=result)
    assert "1 new, 1 in all" in project.ok("review", "pull", "--priors")
    project.ok("prior")
    assert uid not in (project.folder / "data/prior/left_out.csv").read_text()
    assert (counts(project)["rejected_by_experts"], counts(project)["accepted_by_experts"]) == (0, 1)


def test_what_was_deleted_or_changed_by_hand_is_repaired(project: Project) -> None:
    project.ok("review", "push", "--priors")
    gone, bare, emptied = sorted(tasks(project))[:3]
    there = tasks(project)
    project.client.tasks.delete(id=str(there[gone]["id"]))
    (prediction,) = project.client.predictions.list(task=there[bare]["id"])
    project.client.predictions.delete(id=prediction.id)
    review(project, emptied)
    project.client.tasks.update(id=str(there[emptied]["id"]), data={"uid": emptied})
    assert "1 new, 1 updated, 1 repaired" in project.ok("review", "push", "--priors")
    assert project.prefilled(there[bare]["id"])
    assert "changed by hand" in reviews(project)[emptied].problems[0]
    assert tasks(project)[emptied]["data"]["text"] == priors(project)[emptied].text


def test_priors_are_reviewed_before_anything_is_drafted(project: Project) -> None:
    shutil.rmtree(project.folder / "data/draft")
    assert "0 new, 0 in all" in project.ok("review", "pull", "--priors")
    assert f"{len(priors(project))} new" in project.ok("review", "push", "--priors")


# In a browser


@pytest.mark.browser
def test_an_expert_edits_a_prior_on_its_page(project: Project) -> None:
    if not CHROMIUM:
        pytest.skip("no chromium here: `make test` installs it where it may")
    for uid in priors(project):
        reword(project, uid, lambda row: f"{HOSTILE} {row.text}")
    project.ok("review", "push", "--priors")
    with chromium() as browser:
        expert = Expert(browser, project.server, SMALL)
        uid = expert.begin(number(project))["uid"]
        shown = priors(project)[uid]
        words = f"{shown.text} An expert adds: “matt”."
        page = expert.page
        images = page.locator(".prior-images img")
        assert images.count() == min(shown.image_count, prior_page.MAX_SHOWN_IMAGES)
        assert expert.text("text").inner_text().strip() == shown.text, "HTML is shown as text"
        assert page.title() != "owned" and not expert.complaints
        told = page.locator(".prior-provenance").inner_text()
        assert (
            "real_iad, training pool" in told
            and f"measured, version {NORMALCY_VERSION}" in told
            and "mean grey" in told
        )
        small = images.nth(1).bounding_box()
        images.nth(1).click()
        large = images.nth(1).bounding_box()
        assert small and large and large["height"] > 2 * small["height"]
        images.nth(1).click()
        # Keys that Label Studio would give to the choices tick nothing.
        for key in "123456789abcdefqwz":
            page.keyboard.press(key)
        assert page.locator(".review input[type=radio]:checked").count() == 0
        expert.write("text", words)
        expert.tick("fixed")
        box = page.get_by_test_id("bottombar-submit-button").bounding_box()
        assert box and box["y"] + box["height"] <= 768 and page.evaluate("document.body.scrollWidth") <= 1366
        expert.submit()
    project.ok("review", "pull", "--priors")
    found = reviews(project)[uid]
    assert (found.verdict, found.before, found.after, found.problems) == ("fixed", shown.text, words, [])


# What reviews mean


def row(text: str = "A sound bolt, plain and even all over its length.", **changes: Any) -> NormalcyPrior:
    values = {
        "prior_id": "mine/bolt/C1", "source_set": "mine", "category": "bolt", "view": "C1", "text": text,
        "facts": "{}", "image_count": 12, "image_sha256": [SHA], "author": "measured", "version": "1",
    }  # fmt: skip
    return NormalcyPrior.model_validate(values | changes)


def said(text: str, number: int = 1, **changes: Any) -> PriorReview:
    values = {
        "review_id": f"1/{number}", "prior_id": "mine/bolt/C1", "text_sha256": text_sha256(text),
        "reviewer": "ada@example.org", "reviewed_at": f"2026-11-01T00:00:{number:02}+00:00", "seconds": 1.0,
        "verdict": "accepted", "before": text, "after": text, "reason": "", "comment": "", "result": "[]",
        "problems": [],
    }  # fmt: skip
    return PriorReview.model_validate(values | changes)


def test_a_rejected_text_of_a_model_gives_way_to_the_measured_one_as_the_experts_left_it() -> None:
    measured, worded = row(), row(f"{row().text} In a model's words.", author="a-model", version="7")
    better = f"{row().text} An expert's."
    no = said(worded.text, verdict="rejected", reason="invented")
    yes = said(measured.text, 2, verdict="fixed", after=better)
    for reviews_, text, author in (
        ([], worded.text, "a-model"),
        ([no], measured.text, "measured"),
        ([no, yes], better, "expert"),
        ([yes], worded.text, "a-model"),
        ([no, said(worded.text, 3)], worded.text, "a-model"),
        ([no.model_copy(update={"problems": ["not readable"]})], worded.text, "a-model"),
        ([no.model_copy(update={"prior_id": "held_out/bolt/C1"})], worded.text, "a-model"),
    ):
        output = Output(Path())
        (found,) = apply_reviews([worded], [measured], reviews_, output)
        assert (found.text, found.author) == (text, author)
        assert (found.facts, found.image_sha256) == (worded.facts, worded.image_sha256)
    assert output.counts["reviews_of_changed_texts"] == 1, "of another set's prior of the same words"
    # A decision, not a loss: a strict run goes on, and names it.
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
        (f"{row().text} </observation> It ends here.", "tag of the trajectories"),
        (f"{row().text} The ground truth mask says so.", "ground truth"),
        (f"{row().text} \x07", "control character"),
        (f"{row().text} {HOSTILE} 😀 עברית <b>bold</b>", ""),
    ],
)
def test_what_a_prior_may_say(text: str, problem: str) -> None:
    found = find_text_problems(text, "flange")
    assert problem in found[0] if problem else found == []


def test_a_prior_may_name_its_own_object() -> None:
    text = f"{row().text} As the mask shows, it lies flat."
    assert find_text_problems(text, "mask") == [] and "'the mask shows'" in find_text_problems(text, "flange")[0]


# The page


@settings(max_examples=60, deadline=None)
@given(text=TEXT, comment=TEXT)
def test_what_is_written_comes_back_as_it_was(text: str, comment: str) -> None:
    result = [*prior_page.build_prefill(SHA, text), *judged("fixed", comment=comment)]
    prior_page.check_prefill(result)
    found = prior_page.read_annotation(json.loads(json.dumps(result)))
    assert found == prior_page.Reading(SHA, text, "fixed", "", comment)


def test_emptied_fields_are_empty() -> None:
    assert prior_page.read_annotation([]) == prior_page.Reading(None, "", None, "", "")


def test_text_of_models_is_escaped() -> None:
    shown = [prior_page.PageImage('/a.png?a="&b=1', 640, 480)] * 3
    measured = measure_normalcy([np.full((64, 64, 3), 90, np.uint8)] * 2)
    facts = json.dumps(measured | {HOSTILE: HOSTILE, "colours": {HOSTILE: 1.0}})
    data = prior_page.build_task(row(author=HOSTILE, view=HOSTILE), SHA, HOSTILE, shown)
    for html in (
        data["provenance"],
        data["images"],
        prior_page._render_provenance(row(facts=facts, text=f"{HOSTILE} {HOSTILE}"), ""),
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
