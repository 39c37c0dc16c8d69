"""Several experts: assignment, agreement and adjudication, on a real server with several accounts."""

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter import brush

from annotation.adjudication import describe_reviews, find_disagreements
from annotation.agreement import measure_agreement
from annotation.assignment import assign_drafts, find_gold_originals
from annotation.gold import is_caught, plant_mistake
from cot_builder.corpus.drafts import derive_columns
from cot_builder.corpus.reviews import decide_drafts, read_reviews
from cot_builder.params import Params, load_params
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.geometry import Box
from schemas.review import REVIEW, Change, Review
from schemas.trajectory import DRAFT, Draft, Trajectory, Turn, Verdict
from tests.cot_builder.corpus.test_reviews import make_draft, make_review
from tests.helpers.paths import ROOT
from tests.helpers.review_project import Project, Result, build_judgement, edit_result

EXPERTS = ("ada@example.org", "bo@example.org", "cy@example.org")
TYPES = ("scratch", "dent", "crack", "stain", "hole")
YES = Verdict(answer="Yes", boxes=[(100, 100, 300, 300)], defect_type="scratch")


def load_review_params(*names: str, **changes: Any) -> Params:
    found = load_params(root=ROOT)
    return found.model_copy(update={"review": found.review.model_copy(update={"annotators": list(names), **changes})})


def build_drafts(count: int) -> list[Draft]:
    return [
        build_draft(YES if number % 3 else Verdict(answer="No"), f"set/part/{number:04}") for number in range(count)
    ]


def build_draft(verdict: Verdict, sample: str = "set/part/0001") -> Draft:
    trajectory = Trajectory(turns=[Turn(thought=f"I look at {sample}.")], verdict=verdict)
    return make_draft(sample).model_copy(update=derive_columns(trajectory))


def build_review(number: int, who: str, left: Verdict, unit: int = 0, **changes: Any) -> Review:
    text = Trajectory(turns=[Turn(thought="I look.")], verdict=left).model_dump_json()
    return make_review(
        number % 60, review_id=f"1/{number}", reviewer=who, trajectory=text, draft_sha256=f"{unit:064x}", **changes
    )


# --- assignment --------------------------------------------------------------------------------------


def test_single_project_without_annotators() -> None:
    rows = build_drafts(20)
    (only,) = assign_drafts(rows, load_review_params().review, 0).values()
    assert [item.shown for item in only] == rows and not find_gold_originals({"": only})


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(2, 5), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.1]), st.integers(0, 9))
def test_draft_has_one_page_or_all(count: int, overlap: float, gold: float, seed: int) -> None:
    names = [f"expert{number}@example.org" for number in range(count)]
    rows = build_drafts(60)
    given = assign_drafts(rows, load_review_params(*names, overlap_share=overlap, gold_share=gold).review, seed)
    true = Counter(item.draft.draft_id for items in given.values() for item in items if item.shown is item.draft)
    shared = {item.draft.draft_id for items in given.values() for item in items if item.shared}
    assert {uid: true[uid] for uid in true} == {row.draft_id: count if row.draft_id in shared else 1 for row in rows}
    for items in given.values():
        assert len({item.draft.draft_id for item in items}) == len(items), "a project has a draft twice"
    assert not find_gold_originals(given) or gold


def test_assignment_shares() -> None:
    rows = build_drafts(4000)
    given = assign_drafts(rows, load_review_params(*EXPERTS, overlap_share=0.2, gold_share=0.05).review, 0)
    for items in given.values():
        true = [item for item in items if item.shown is item.draft]
        assert 0.17 < sum(item.shared for item in true) / len(rows) < 0.23
        assert 0.035 < (len(items) - len(true)) / len(true) < 0.065
    assert sum(len(items) for items in given.values()) < 2 * len(rows)


def test_new_expert_only_takes_drafts() -> None:
    rows = build_drafts(300)
    before = assign_drafts(rows, load_review_params(*EXPERTS[:2], gold_share=0.0).review, 0)
    after = assign_drafts(rows, load_review_params(*EXPERTS, gold_share=0.0).review, 0)
    for name, items in before.items():
        assert {item.draft.draft_id for item in after[name]} < {item.draft.draft_id for item in items}


def test_invalid_annotator_names() -> None:
    def load(*names: str) -> None:
        load_params(settings=[f"review.annotators={json.dumps(names)}"], root=ROOT)

    load(*EXPERTS)
    with pytest.raises(IndusCotError, match="listed twice"):
        load("ada@example.org", "Ada@example.org")
    with pytest.raises(IndusCotError, match=r"longer than the 50 characters.*shorten review\.project"):
        load(f"{'a' * 60}@example.org")


# --- planted mistakes ---------------------------------------------------------------------------------

BOXES = st.tuples(*[st.integers(0, 900)] * 2, *[st.integers(1, 100)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(deadline=None)
@given(st.lists(BOXES, min_size=1, max_size=3), st.sampled_from(TYPES), st.booleans(), st.integers(0, 3))
def test_planted_mistake_changes_only_verdict(boxes: list[Box], kind: str, normal: bool, seed: int) -> None:
    right = Verdict(answer="No") if normal else Verdict(answer="Yes", boxes=boxes, defect_type=kind)
    row = build_draft(right)
    planted = plant_mistake(row, seed)
    assert planted == plant_mistake(row, seed)
    before, after = (Trajectory.model_validate_json(item.trajectory) for item in (row, planted))
    assert after.turns == before.turns
    assert planted.draft_sha256 != row.draft_sha256 and planted.draft_id == row.draft_id
    assert not is_caught("accepted", after.verdict, right)
    assert is_caught("rejected", after.verdict, right)
    assert is_caught("fixed", right, right)


# --- disagreements -----------------------------------------------------------------------------------


def test_disagreements_ignore_wording() -> None:
    fixed = {"verdict": "fixed", "changes": [Change(field="turns.0.thought", before="a", after="b")]}
    reject = {"verdict": "rejected", "reasons": ["wrong type"]}
    moved = YES.model_copy(update={"boxes": [(400, 400, 600, 600)]})
    nudged = YES.model_copy(update={"boxes": [(110, 100, 310, 300)]})
    dent = YES.model_copy(update={"defect_type": "dent"})
    cases: list[tuple[Verdict, dict[str, Any], bool]] = [
        (YES, {}, False), (YES, fixed, False), (nudged, fixed, False), (moved, fixed, True), (dent, fixed, True),
        (Verdict(answer="No"), fixed, True), (YES, reject, True),
    ]  # fmt: skip
    for verdict, more, differ in cases:
        rows = [build_review(1, EXPERTS[0], YES), build_review(2, EXPERTS[1], verdict, **more)]
        assert bool(find_disagreements(rows)) is differ, (verdict, more)
        assert not find_disagreements([*rows, build_review(3, EXPERTS[2], YES, role="adjudication")])
    both = [build_review(1, EXPERTS[0], YES, **reject), build_review(2, EXPERTS[1], YES, **reject)]
    assert not find_disagreements(both)


def test_descriptions_hide_names() -> None:
    rows = [
        build_review(1, EXPERTS[0], YES, comment="fine by me"),
        build_review(2, EXPERTS[1], YES, verdict="rejected", reasons=["wrong location"]),
    ]
    lines = describe_reviews(rows)
    assert lines == ["expert 1 accepts it: “fine by me”", "expert 2 rejects it: wrong location"]
    assert lines == describe_reviews(rows[::-1])


def test_adjudication_overrides_reviews() -> None:
    words = [
        build_review(1, EXPERTS[0], YES),
        build_review(2, EXPERTS[1], YES, verdict="rejected", reasons=["wrong type"]),
    ]
    (before,) = decide_drafts(words).values()
    assert (before.status, before.reviewers) == ("rejected", 2)
    (after,) = decide_drafts([build_review(9, EXPERTS[2], YES, role="adjudication"), *words]).values()
    assert (after.status, after.reviewers) == ("accepted", 3)
    assert decide_drafts([build_review(1, EXPERTS[0], YES, role="gold", caught=False)]) == {}


# --- agreement ----------------------------------------------------------------------------------------


def measure(folder: Path, rows: Sequence[Review]) -> Any:
    workspace = Workspace(folder)
    workspace.review.mkdir(parents=True)
    REVIEW.write(REVIEW.frame(list(rows)), workspace.reviews)
    found = measure_agreement(load_review_params(), workspace)
    assert json.loads((workspace.reports / "agreement.json").read_text())["shared"] == found.shared
    return found


@pytest.mark.slow
def test_kappa_matches_textbook(tmp_path: Path) -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: po = 0.7, pe = 0.5, so κ = 0.4.
    cells = [("accepted", "accepted")] * 20 + [("accepted", "rejected")] * 5
    cells += [("rejected", "accepted")] * 10 + [("rejected", "rejected")] * 15
    rows = [
        build_review(
            2 * unit + side, EXPERTS[side], YES, unit, verdict=word, reasons=["wrong type"] * (word == "rejected")
        )
        for unit, pair in enumerate(cells)
        for side, word in enumerate(pair)
    ]
    found = measure(tmp_path, rows)
    (pair,) = found.groups
    assert pair.who == "ada@example.org and bo@example.org"
    assert pair.verdict.value == pytest.approx(0.4) and pair.verdict.units == 50
    assert pair.verdict.low < 0.4 < pair.verdict.high
    # Both accepted 20 drafts with the same type: no coefficient is defined if only one value occurs.
    assert (pair.type.value, pair.type.units) == (None, 20)
    assert (pair.box_iou.value, pair.mask_dice.units) == (1.0, 0)
    assert (found.shared, found.disagreements) == (50, 15)


@pytest.mark.slow
def test_alpha_matches_krippendorff(tmp_path: Path) -> None:
    # Computing Krippendorff's Alpha-Reliability (2011), section C: nominal α = 0.743.
    data = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    rows = [
        build_review(
            12 * rater + unit,
            f"{rater}@example.org",
            YES.model_copy(update={"defect_type": TYPES[int(mark) - 1]}),
            unit,
        )
        for rater, line in enumerate(data)
        for unit, mark in enumerate(line.split())
        if mark != "."
    ]
    everybody = measure(tmp_path, rows).groups[0]
    assert everybody.who == "all"
    assert everybody.type.value == pytest.approx(0.743, abs=0.0005)


@pytest.mark.slow
def test_overlap_needs_two_defect_verdicts(tmp_path: Path) -> None:
    def paint_columns(derive_columns: int) -> str:
        mask = np.zeros((20, 40), np.uint8)
        mask[:10, :derive_columns] = 255
        value = {"format": "rle", "rle": brush.mask2rle(mask), "brushlabels": ["defect mask"]}
        return json.dumps([{"type": "brushlabels", "original_width": 40, "original_height": 20, "value": value}])

    half = YES.model_copy(update={"boxes": [(100, 100, 200, 300)]})
    rows = [
        build_review(1, EXPERTS[0], YES, result=paint_columns(10)),
        build_review(2, EXPERTS[1], half, verdict="fixed", result=paint_columns(30)),
        build_review(3, EXPERTS[0], YES, 1),
        build_review(4, EXPERTS[1], Verdict(answer="No"), 1, verdict="fixed"),
    ]
    (pair,) = measure(tmp_path, rows).groups
    assert (pair.box_iou.value, pair.box_iou.units) == (0.5, 1)
    assert (pair.mask_dice.value, pair.mask_dice.units) == (0.5, 1)
    assert pair.type.units == 2


def test_drift_on_planted_mistakes(tmp_path: Path) -> None:
    rows = [build_review(n, EXPERTS[0], YES, n, role="gold", caught=n < 10, seconds=30.0) for n in range(20)]
    found = measure(tmp_path, rows)
    (expert,) = found.experts
    assert (expert.caught.value, expert.caught_first.value, expert.caught_last.value) == (0.5, 1.0, 0.0)
    assert expert.caught_last.high < 0.3 and expert.drift < 0.001
    assert (expert.reviews, expert.seconds, expert.verdicts, found.groups) == (20, 30.0, {}, [])


# --- on a server --------------------------------------------------------------------------------------


class Expert:
    """An expert with an account, who signed up with the link that a push prints."""

    def __init__(self, project: Project, email: str, link: str) -> None:
        self.email = email
        self.project = project
        self.http = httpx.Client(base_url=project.server.url, follow_redirects=True)
        self.http.get(link)
        form = {
            "email": self.email,
            "password": "a long password",
            "csrfmiddlewaretoken": self.http.cookies["csrftoken"],
        }
        self.http.post(link, data=form).raise_for_status()

    def review(
        self, title: str, uid: str, edit: Callable[[Result], Result] = list, verdict: str = "accept", *reasons: str
    ) -> None:
        task = self.project.tasks(title)[uid]["id"]
        result = edit(self.project.get_prefill(task)) + build_judgement(verdict, reasons)
        headers = {"X-CSRFToken": self.http.cookies["csrftoken"], "Referer": self.project.server.url}
        body = {"result": result, "lead_time": 20.0}
        self.http.post(f"/api/tasks/{task}/annotations", json=body, headers=headers).raise_for_status()


def new_address(name: str) -> str:
    return f"{name}.{secrets.token_hex(3)}@x.org"


def find_addresses(project: Project, *names: str) -> list[str]:
    """Return new addresses for which the random assignment plants at least two mistakes for each of ``names``."""
    rows: list[Draft] = DRAFT.records(project.drafts())
    while True:
        emails = [new_address(name) for name in names]
        chosen = load_params(
            settings=[*project.settings, f"review.annotators={json.dumps(emails)}"], root=project.folder
        )
        given = assign_drafts(rows, chosen.review, chosen.run.seed)
        if min(sum(item.shown is not item.draft for item in items) for items in given.values()) >= 2:
            return emails


def test_third_expert_settles_disagreement(project: Project) -> None:
    def name_annotators(*emails: str) -> tuple[str, ...]:
        shares = ("review.overlap_share=0.4", "review.gold_share=1", "review.audit_share=0")
        return (*project.settings, f"review.annotators={json.dumps(emails)}", *shares)

    project.settings = (
        *(item for item in project.settings if "project=" not in item),
        f"review.project={project.title[-10:]}",
    )
    plain, project.settings = project.settings, name_annotators("nobody@example.org")
    with pytest.raises(IndusCotError, match=r"no account of nobody@example\.org") as refused:
        project.run_ok("review", "push")
    assert len(list(project.client.projects.list(title=project.title[-10:]))) == 1, (
        "only the project of the priors may exist"
    )
    (link,) = re.findall(r"http\S+signup\S+(?=,)", str(refused.value))
    ada, bo, cy = (Expert(project, email, link) for email in (*find_addresses(project, "ada", "bo"), new_address("cy")))
    project.settings = plain
    project.settings = name_annotators(ada.email, bo.email)
    titles = [f"{project.title[-10:]} · {expert.email}" for expert in (ada, bo)]
    settling = f"{project.title[-10:]} · adjudication"
    project.run_ok("review", "push")
    pages = [project.tasks(title) for title in titles]
    assert "0 tasks new, 0 updated" in project.run_ok("review", "push")
    rows = {row["draft_id"]: row for row in project.drafts().iter_rows(named=True)}
    real = [
        {uid for uid, task in mine.items() if task["data"]["draft_sha256"] == rows[uid]["draft_sha256"]}
        for mine in pages
    ]
    shared = sorted(real[0] & real[1])
    assert real[0] | real[1] == set(rows) and len(shared) >= 3
    planted = sorted(pages[0].keys() - real[0])
    assert len(planted) >= 2
    # A page with a planted mistake has the same fields as any other.
    assert {tuple(task["data"]) for task in pages[0].values()} == {tuple(pages[0][planted[0]]["data"])}
    ada.review(titles[0], planted[0])
    ada.review(titles[0], planted[1], list, "reject", "wrong answer")
    ada.review(titles[0], shared[0])
    bo.review(titles[1], shared[0])
    ada.review(titles[0], shared[1], list, "reject", "poor reasoning")
    bo.review(
        titles[1],
        shared[1],
        edit_result("think_0", text=["I look at the part as a whole and find nothing to add."]),
        "fixed",
    )
    assert "6 new or changed, 6 in all" in project.run_ok("review", "pull")
    found = read_reviews(Workspace(project.folder))
    assert {(row.reviewer, row.role, row.caught) for row in found if row.role == "gold"} == {
        (ada.email, "gold", False), (ada.email, "gold", True)
    }  # fmt: skip
    text = project.run_ok("review", "agree")
    assert "2 drafts reviewed by two or more, 1 disagreements to settle" in text
    corpus = project.corpus()
    assert corpus.filter(corpus["review_status"] == "accepted")["reviewers"].to_list() == [2]
    assert shared[1].rpartition("#")[0] not in corpus["sample_id"].to_list()
    assert len(corpus) == len(rows) - 1, "a page with a planted mistake changed the corpus"
    assert "1 to be settled" in project.run_ok("review", "push")
    (task,) = project.tasks(settling).values()
    assert task["data"]["uid"] == shared[1]
    assert "rejects it: poor reasoning" in task["data"]["why"] and "@" not in task["data"]["why"]
    cy.review(settling, shared[1])
    project.run_ok("review", "pull")
    assert "0 disagreements to settle, 1 settled" in project.run_ok("review", "agree")
    settled = project.corpus()
    (row,) = settled.filter(settled["sample_id"] == shared[1].rpartition("#")[0]).iter_rows(named=True)
    assert (row["review_status"], row["reviewers"]) == ("accepted", 3)
    assert "0 tasks new, 0 updated, 0 repaired" in project.run_ok("review", "push")
    assert "1 disagreements" not in project.run_ok("review", "status")
