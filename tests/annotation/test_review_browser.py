"""An expert at the review page in a real browser: exactly their edits are pulled."""

import json
import shutil
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser

from schemas.geometry import SCALE, to_pixels
from schemas.review import Review
from schemas.trajectory import Trajectory, Turn, Verdict
from tests.helpers.browser import CHROMIUM, chromium
from tests.helpers.expert import LARGE, SMALL, Expert
from tests.helpers.review_project import Project, change_draft, find_draft_ids, replace_first_thought
from tests.servers.label_studio_server import Server

SHIFT = 40
"""Distance by which a box or a region is moved, in 0-1000."""
NEAR = 4
"""Tolerance of a mouse drag, in 0-1000: a screen pixel is 1.5, and a drag starts after a few pixels."""
SCROLLED = """() => [...document.querySelectorAll('html, body, .review-left')]
  .filter(part => part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth + 1)
  .map(part => part.className || part.tagName)"""
COMMENT = "reads <i>well</i> now"
HOSTILE = (
    '<script>hacked = 1</script><img src=x onerror="hacked = 1"> <b>bold</b> &amp; & "double" \'single\' \\n {{idx}} '
    "$steps 😀 👩‍🔬 \u202eעברית\u202c العربية  two  spaces\nand a line"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no chromium here: install it, or say where it is in CHROMIUM")
    with chromium() as opened:
        yield opened


@pytest.fixture
def expert(browser: Browser, project: Project) -> Iterator[Expert]:
    somebody = Expert(browser, project.server)
    yield somebody
    somebody.page.close()


def read_trajectory(project: Project, uid: str) -> Trajectory:
    (row,) = (draft for draft in project.drafts().iter_rows(named=True) if draft["draft_id"] == uid)
    return Trajectory.model_validate_json(row["trajectory"])


def find_crop_turn(found: Trajectory) -> int:
    """Return the number of the first turn that crops a region."""
    return next(i for i, turn in enumerate(found.turns) if turn.call and turn.call.tool == "crop")


def get_region(turn: Turn) -> list[int]:
    assert turn.call is not None
    return list(turn.call.arguments["region"])


def get_changes(review: Review) -> dict[str, tuple[str, str]]:
    return {change.field: (change.before, change.after) for change in review.changes}


def is_near(found: list[int], wanted: list[int]) -> bool:
    return max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= NEAR


def decode_pixels(image: dict[str, Any]) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image["bytes"], np.uint8), cv2.IMREAD_COLOR)


def compute_difference(shown: np.ndarray, whole: np.ndarray, box: list[int]) -> float:
    """Return the mean grey-level difference between an image from a tool and a box of the inspected image."""
    x1, y1, x2, y2 = to_pixels((box[0], box[1], box[2], box[3]), whole.shape[1], whole.shape[0])
    cut = cv2.resize(whole[y1:y2, x1:x2], (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_CUBIC)
    return float(np.abs(shown.astype(int) - cut).mean())


@dataclass
class Work:
    """The edits of an expert to the drafts of a project, each to a different draft."""

    project: Project
    before: dict[str, Trajectory]
    """The drafts, by id."""
    roles: dict[str, str]
    """Draft by kind of edit; the other drafts are accepted unedited."""
    wanted: dict[str, Any]
    """Expected result of each edit, by role."""
    order: list[str]
    """Drafts in the order the label stream showed them."""
    seconds: float
    """Wall time of the whole review."""

    def get_region(self, role: str) -> list[int]:
        """Return the region of the draft's first crop."""
        found = self.before[self.roles[role]]
        return get_region(found.turns[find_crop_turn(found)])

    def expected(self, edited: str, refused: str, other: str) -> dict[str, str]:
        """Return the expected verdict of each draft."""
        words = dict.fromkeys(self.before, other) | dict.fromkeys(self.edited, edited)
        return words | {self.roles["refuse"]: refused}

    @property
    def edited(self) -> set[str]:
        return {uid for role, uid in self.roles.items() if role != "refuse"}


def plan_edits(project: Project) -> Work:
    """Choose a draft for each edit, and spoil those to be corrected: the gates reject a wrong type or place."""
    roles = dict(zip(("word", "move", "type", "call", "region"), find_draft_ids(project), strict=False))
    roles["refuse"] = find_draft_ids(project, answer="No")[0]
    verdicts = {role: read_trajectory(project, uid).verdict for role, uid in roles.items()}
    box, kind = list(verdicts["move"].boxes[0]), verdicts["type"].defect_type
    wrong = {"move": {"boxes": [[side + SHIFT for side in box]]}, "type": {"defect_type": "dent"}}
    assert kind != "dent"
    for role, error in wrong.items():
        verdict = Verdict.model_validate(verdicts[role].model_dump() | error)
        change_draft(project, roles[role], lambda draft, put=verdict: draft.model_copy(update={"verdict": put}))
    before = {uid: read_trajectory(project, uid) for uid in project.drafts()["draft_id"]}
    work = Work(project, before, roles, {"move": box, "type": kind}, [], 0.0)
    x1, y1, x2, y2 = work.get_region("call")
    work.wanted["call"] = [max(0, x1 - 30), max(0, y1 - 20), min(SCALE, x2 + 10), min(SCALE, y2 + 20)]
    x1, y1, x2, y2 = work.get_region("region")
    work.wanted["region"] = [x1 - SHIFT // 2, y1 + SHIFT // 2, x2 - SHIFT // 2, y2 + SHIFT // 2]
    work.wanted["word"] = f"{before[roles['word']].turns[0].thought} It's plain & odd 🔩 שלום."
    return work


def apply_edit(expert: Expert, work: Work, role: str) -> str:
    """Make one edit on the page; return the verdict that goes with it."""
    if role == "word":
        expert.write("think_0", work.wanted[role])
        expert.rate(0, 4)
        expert.rate(1, 2)
        expert.page.fill("input[name=comment]", COMMENT)
    elif role == "move":
        x, y = work.wanted[role][0] + SHIFT + 10, work.wanted[role][1] + SHIFT + 10
        expert.drag((x, y), (x - SHIFT, y - SHIFT))
    elif role == "type":
        expert.choose_type(work.wanted[role])
    elif role == "call":
        call = {"tool": "crop", "arguments": {"region": work.wanted[role]}}
        expert.write(f"call_{find_crop_turn(work.before[work.roles[role]])}", json.dumps(call))
    elif role == "region":
        # Drag at a corner, which the defect inside the region does not cover.
        (left, _, _, bottom), (new_left, _, _, new_bottom) = work.get_region(role), work.wanted[role]
        expert.drag((left + 6, bottom - 6), (new_left + 6, new_bottom - 6))
    return {"": "accept", "refuse": "reject"}.get(role, "fixed")


@pytest.fixture(scope="module")
def work(browser: Browser, drafted: Path, label_studio: Server, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """All drafts of a project, reviewed in the browser and pulled."""
    started = time.monotonic()
    folder = tmp_path_factory.mktemp("reviewed") / "project"
    work = plan_edits(Project(Path(shutil.copytree(drafted, folder, symlinks=True)), label_studio))
    work.project.run_ok("review", "push")
    roles = {uid: role for role, uid in work.roles.items()}
    expert = Expert(browser, label_studio)
    task = expert.begin(work.project.number)
    while task:
        work.order.append(task["uid"])
        verdict = apply_edit(expert, work, roles.get(task["uid"], ""))
        expert.tick(verdict)
        if verdict == "reject":
            expert.page.get_by_role("checkbox", name="poor reasoning").check(force=True)
        task = expert.submit()
    assert expert.complaints == []
    expert.page.close()
    work.project.run_ok("review", "pull")
    work.seconds = time.monotonic() - started
    return work


def test_label_stream_follows_queue(work: Work) -> None:
    priority = {uid: task["data"]["priority"] for uid, task in work.project.tasks().items()}
    assert work.order == sorted(work.before, key=lambda uid: (-priority[uid], uid))


def test_pull_records_exact_edits(work: Work) -> None:
    reviews = work.project.reviews()
    assert {uid: row.verdict for uid, row in reviews.items()} == work.expected("fixed", "rejected", "accepted")
    assert {uid: row.problems for uid, row in reviews.items()} == {uid: [] for uid in work.before}
    assert {row.reviewer for row in reviews.values()} == {work.project.server.email}
    assert all(0 < row.seconds < work.seconds for row in reviews.values())
    assert {uid: row.reasons for uid, row in reviews.items() if row.reasons} == {
        work.roles["refuse"]: ["poor reasoning"]
    }
    said = {uid: (row.evidence_rating, row.logic_rating, row.comment) for uid, row in reviews.items()}
    assert said == dict.fromkeys(work.before, (None, None, "")) | {work.roles["word"]: (4, 2, COMMENT)}

    changes = {role: get_changes(reviews[uid]) for role, uid in work.roles.items()}
    assert {uid for uid, row in reviews.items() if row.changes} == work.edited
    thought = work.before[work.roles["word"]].turns[0].thought
    assert changes["word"] == {"turns.0.thought": (thought, work.wanted["word"])}
    assert changes["type"] == {"verdict.defect_type": ("dent", work.wanted["type"])}
    ((field, (old, new)),) = changes["move"].items()
    assert (field, json.loads(old)) == ("verdict.boxes", [[side + SHIFT for side in work.wanted["move"]]])
    assert is_near(json.loads(new)[0], work.wanted["move"])


@pytest.mark.parametrize("role", ["call", "region"])
def test_edited_crop_shows_new_region(work: Work, role: str) -> None:
    uid = work.roles[role]
    number = find_crop_turn(work.before[uid])
    ((field, (old, new)),) = get_changes(work.project.reviews()[uid]).items()
    assert field == f"turns.{number}.call"
    assert json.loads(old)["arguments"] == {"region": work.get_region(role)}
    chosen = json.loads(new)["arguments"]["region"]
    assert chosen == work.wanted[role] if role == "call" else is_near(chosen, work.wanted[role])
    row = read_corpus(work)[uid.rpartition("#")[0]]
    # Images of a row: the inspected one, then those of the observations.
    place = 1 + sum(
        bool(turn.observation and turn.observation.image_sha256) for turn in work.before[uid].turns[:number]
    )
    whole, shown = decode_pixels(row["images"][0]), decode_pixels(row["images"][place])
    assert compute_difference(shown, whole, chosen) < 1 < compute_difference(shown, whole, work.get_region(role))


def test_corpus_contains_expert_edits(work: Work) -> None:
    found = read_corpus(work)
    expected = {uid.rpartition("#")[0]: word for uid, word in work.expected("fixed", "", "accepted").items() if word}
    assert {name: row["review_status"] for name, row in found.items()} == expected
    reviews = {uid.rpartition("#")[0]: row for uid, row in work.project.reviews().items()}
    assert all(row["trajectory"] == reviews[name].trajectory for name, row in found.items())
    assert "all equal" in work.project.run_ok("verify")


def read_corpus(work: Work) -> dict[str, dict[str, Any]]:
    """Return the rows of the corpus, by sample."""
    return {row["sample_id"]: row for row in work.project.corpus().iter_rows(named=True)}


def test_teacher_text_is_never_html(project: Project, expert: Expert) -> None:
    project.run_ok("review", "push")
    first, second = (task["data"]["uid"] for task in sort_tasks(project)[:2])
    for uid, text in ((first, HOSTILE), (second, "x" * 5_000 + " 😀" * 2_500)):
        change_draft(project, uid, lambda draft, text=text: replace_texts(draft, text))
    project.run_ok("review", "push")
    task = expert.begin(project.number)
    assert task["uid"] == first
    assert HOSTILE in expert.text("think_0").inner_text()
    expert.tick("accept")
    expert.submit()
    expert.tick("accept")
    expert.submit()
    assert expert.page.evaluate("typeof hacked") == "undefined"
    project.run_ok("review", "pull")
    reviews = project.reviews()
    assert {uid: (row.verdict, row.changes) for uid, row in reviews.items()} == {
        first: ("accepted", []),
        second: ("accepted", []),
    }


def sort_tasks(project: Project) -> list[dict[str, Any]]:
    return sorted(project.tasks().values(), key=lambda task: -task["data"]["priority"])


def replace_texts(draft: Trajectory, text: str) -> Trajectory:
    """Return the draft with ``text`` as its first thought and as the text of its first observation."""
    draft = replace_first_thought(draft, text)
    first = draft.turns[0]
    if first.observation is None:
        return draft
    told = first.observation.model_copy(update={"text": text})
    return draft.model_copy(update={"turns": [first.model_copy(update={"observation": told}), *draft.turns[1:]]})


def test_typed_keys_change_no_answer(project: Project, expert: Expert) -> None:
    project.run_ok("review", "push")
    expert.begin(project.number)
    before = expert.answers()
    typed = string.ascii_letters + string.digits
    expert.page.keyboard.type(typed)
    assert expert.answers() == before, "with the focus on the page"
    (box, *_) = (item["value"] for item in before if item["from_name"] == "region")
    x, y = expert.at(((box["x"] + box["width"] / 2) * 10, (box["y"] + box["height"] / 2) * 10))
    expert.page.mouse.click(x, y)
    expert.page.keyboard.type(typed)
    assert expert.answers() == before, "with a box selected"
    expert.page.keyboard.press("Escape")
    field = expert.edit("think_0")
    text = field.input_value()
    field.press("End")
    expert.page.keyboard.type(typed)
    field.press("Shift+Enter")
    field.wait_for(state="detached")
    after = {item["id"]: item["value"] for item in expert.answers()}
    differing = {item["id"] for item in before if after.pop(item["id"]) != item["value"]}
    assert (differing, after) == ({"think_0_text"}, {})
    expert.page.fill("input[name=comment]", "")
    expert.page.locator("input[name=comment]").press_sequentially(typed)
    assert len(text) < len(expert.text("think_0").inner_text())


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["1920x1080", "1366x768"])
def test_verdict_is_visible_without_scrolling(
    project: Project, browser: Browser, size: tuple[int, int], tmp_path: Path
) -> None:
    project.run_ok("review", "push")
    expert = Expert(browser, project.server, size)
    expert.begin(project.number)
    # Screenshots for people, in pytest's temporary folder.
    expert.page.screenshot(path=tmp_path / "opened.png")
    for verdict in ("accept", "reject"):
        expert.tick(verdict)
        expert.page.screenshot(path=tmp_path / f"{verdict}.png")
        assert expert.page.evaluate(SCROLLED) == [], verdict
        places = [".review-left img", ".review-final", "[data-testid=bottombar-submit-button]"]
        for area, place in ((expert.area(place), place) for place in (*places, ".review-card")):
            assert area["x"] >= 0 and area["x"] + area["width"] <= size[0], (verdict, place, area)
            assert area["y"] >= 0 and area["y"] + area["height"] <= size[1], (verdict, place, area)
        image, final, submit = (expert.area(place) for place in places)
        assert image["y"] + image["height"] <= final["y"], (verdict, image, final)
        assert final["y"] + final["height"] <= submit["y"], (verdict, final, submit)
        assert image["height"] >= size[1] / 2, image
    expert.page.close()
