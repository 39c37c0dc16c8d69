"""The offline teacher is deterministic, describes the pixels correctly, and passes every gate."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.appearance import MeasuredImage, colour_name
from cot_builder.params import Draft as DraftParams
from cot_builder.teacher import phrasing
from cot_builder.teacher.gates import Case, run_gates
from cot_builder.teacher.offline import MAX_BOXES, draft_offline, verdict_boxes
from schemas.geometry import from_pixels, union_iou
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.taxonomy import leaves
from schemas.trajectory import Trajectory

PARAMS = DraftParams(candidates=1, blind=False, max_calls=4, min_iou=0.5, max_words=320, min_words=6)
PRIORS = {
    (
        "nut",
        "C1",
    ): "A nut is hexagonal with a round hole in the middle. Its surface is plain grey. It fills a third of the frame."
}
SIZE = 500


def sample(name: str) -> Sample:
    return Sample(
        sample_id=f"real_iad/nut/{name:0>16}", source_set="real_iad", category="nut", view="C1", part_id=name,
        split="test", width=SIZE, height=SIZE, channels=3, image_format="PNG", image_sha256="0" * 64, shard="s", row=0,
        region=None, licence="x",
    )  # fmt: skip


def part(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((SIZE, SIZE, 3), 225, np.uint8)
    cv2.circle(image, (250, 250), 180, (120, 125, 130), -1, cv2.LINE_AA)
    return (image + random.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


def defective(kind: str, box: tuple[int, int, int, int], grey: int, seed: int = 0) -> tuple[np.ndarray, Supervision]:
    image = part(seed)
    x1, y1, x2, y2 = box
    if kind in ("scratch", "crack"):
        cv2.line(image, (x1 + 1, y1 + 1), (x2 - 2, y2 - 2), (grey, grey, grey), 2, cv2.LINE_AA)
    else:
        cv2.ellipse(
            image, ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2), 0, 0, 360, (grey,) * 3, -1
        )
    truth = Supervision(
        sample_id=sample("a").sample_id, source_path="x", label="anomalous", raw_type="r", defect_type=kind,
        boxes=[from_pixels(box, SIZE, SIZE)], area_fraction=0.01, mask_shard=None, mask_row=None,
    )  # fmt: skip
    return image, truth


NORMAL = Supervision(
    sample_id=sample("a").sample_id, source_path="x", label="normal", raw_type=None, defect_type=None, boxes=[],
    area_fraction=None, mask_shard=None, mask_row=None,
)  # fmt: skip


def draft(image: np.ndarray, truth: Supervision, name: str = "a", seed: int = 0) -> tuple[Trajectory, dict[str, bytes]]:
    return draft_offline(image, sample(name), truth, PRIORS, seed=seed, candidate=0, max_calls=4)


def text(trajectory: Trajectory) -> str:
    return " ".join(turn.thought for turn in trajectory.turns)


@pytest.mark.slow
@pytest.mark.parametrize("kind", leaves())
def test_every_defect_type_passes_gates(kind):
    tools = set()
    for seed, (box, grey) in enumerate(
        [((200, 200, 300, 290), 40), ((240, 240, 258, 252), 90), ((180, 250, 330, 262), 108)] * 4
    ):
        image, truth = defective(kind, box, grey, seed)
        trajectory, images = draft(image, truth, f"{seed}", seed)
        assert run_gates(Case(trajectory, sample(f"{seed}"), truth, PARAMS)) == []
        assert trajectory.verdict.defect_type == kind
        shown = {turn.observation.image_sha256 for turn in trajectory.turns if turn.observation} - {None}
        assert shown == images.keys()
        tools |= {call.tool for call in trajectory.calls}
    assert "crop" in tools
    assert kind in phrasing.NOUNS


def test_normal_parts_pass_gates():
    calls = []
    for seed in range(24):
        image = part(seed)
        if seed % 2:  # a suspicious spot
            cv2.circle(image, (200 + seed, 250), 12, (170, 172, 175), -1, cv2.LINE_AA)
        trajectory, _ = draft(image, NORMAL, f"{seed}", seed)
        assert run_gates(Case(trajectory, sample(f"{seed}"), NORMAL, PARAMS)) == []
        calls.append(len(trajectory.calls))
    assert 0 in calls and max(calls) > 0


@pytest.mark.slow
def test_inspection_start_does_not_predict_verdict():
    """Leave-one-out naive Bayes on the words before the first observation, on images with equal-looking suspects."""
    drafts = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        x, y, size, grey = (
            int(v) for v in (*random.integers(150, 320, 2), random.integers(8, 40), random.integers(60, 190))
        )
        image, truth = defective("stain", (x, y, x + size, y + size), grey, seed)
        for number, supervision in enumerate((truth, NORMAL)):
            trajectory, _ = draft(image, supervision, f"{seed}{number}", seed)
            if trajectory.calls:
                words = set(re.findall(r"[a-z]+", trajectory.turns[0].thought.lower()))
                drafts.append((words, number, {call.tool for call in trajectory.calls}))
    right = 0
    for index, (words, answer, _) in enumerate(drafts):
        others = [item for place, item in enumerate(drafts) if place != index]
        score = []
        for label in (0, 1):
            own = [seen for seen, given, _ in others if given == label]
            score.append(
                np.log(len(own)) + sum(np.log((sum(w in seen for seen in own) + 0.5) / (len(own) + 1)) for w in words)
            )
        right += int(np.argmax(score)) == answer
    assert len(drafts) > 60 and right / len(drafts) < 0.72
    for tool in ("crop", "enhance", "measure", "prior"):
        assert {answer for _, answer, tools in drafts if tool in tools} == {0, 1}, f"calls of {tool} reveal the verdict"


def test_draft_depends_only_on_seed():
    image, truth = defective("stain", (200, 200, 260, 260), 80)
    first, second = draft(image, truth, seed=1), draft(image, truth, seed=1)
    assert first == second
    others = {text(draft(image, truth, seed=seed)[0]) for seed in range(12)}
    assert len(others) > 9


def test_different_image_is_described_differently():
    dark = text(draft(*defective("stain", (200, 200, 300, 300), 20))[0])
    light = text(draft(*defective("stain", (200, 200, 300, 300), 215))[0])
    assert "darker" in dark and "lighter" not in dark
    assert "lighter" in light and "darker" not in light


def test_thoughts_contain_no_identifiers():
    image, truth = defective("pit", (200, 200, 230, 230), 30)
    truth = truth.model_copy(update={"raw_type": "AKXYZ", "source_path": "NG/AKXYZ/file.jpg"})
    trajectory, _ = draft(image, truth)
    assert not re.search(r"AKXYZ|file|real_iad|0000", text(trajectory))


@pytest.mark.slow
def test_subtle_defect_gets_more_calls():
    subtle = sum(len(draft(*defective("pit", (246, 246, 254, 254), 112, s), f"{s}", s)[0].calls) for s in range(12))
    plain = sum(len(draft(*defective("stain", (160, 160, 340, 340), 20, s), f"{s}", s)[0].calls) for s in range(12))
    assert subtle > plain


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(5, 100), st.integers(5, 100)),
        min_size=1,
        max_size=30,
    )
)
def test_verdict_boxes_are_few_and_accurate(spots):
    boxes = [(x, y, x + w, y + h) for x, y, w, h in spots]
    named = verdict_boxes(boxes)
    assert 1 <= len(named) <= MAX_BOXES
    if len(boxes) <= MAX_BOXES:
        assert union_iou(named, boxes) >= 0.7


def test_appearance_reads_tone_shape_and_border():
    look = MeasuredImage(defective("scratch", (150, 150, 350, 350), 20)[0])
    line = look.measure_spot((300, 300, 700, 700))
    assert line.tone == "darker" and line.elongation > 2.4 and line.direction == "falling to the right"
    image = part(0)
    glow = np.zeros((SIZE, SIZE), np.float32)
    cv2.circle(glow, (250, 250), 25, 60, -1)
    image = (image + cv2.GaussianBlur(glow, (0, 0), 14)[..., None]).clip(0, 255).astype(np.uint8)
    soft = MeasuredImage(image).measure_spot((420, 420, 580, 580))
    hard = MeasuredImage(defective("stain", (220, 220, 280, 280), 190)[0]).measure_spot((430, 430, 570, 570))
    assert soft.tone == hard.tone == "lighter" and soft.sharpness < hard.sharpness


def test_scene_separates_part_from_surface():
    scene = MeasuredImage(part(0)).scene()
    assert (
        scene.on_background
        and not scene.fills_frame
        and scene.background in ("white", "light grey")
        and scene.colour == "grey"
    )
    surface = MeasuredImage(
        np.random.default_rng(0).normal(120, 6, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
    ).scene()
    assert surface.fills_frame and not surface.on_background


@pytest.mark.parametrize(
    "bgr, name",
    [
        ((30, 30, 200), "red"),
        ((200, 60, 20), "blue"),
        ((40, 160, 40), "green"),
        ((20, 20, 20), "black"),
        ((250, 250, 250), "white"),
        ((40, 80, 140), "brown"),
    ],
)
def test_colours_have_their_common_names(bgr, name):
    lab = cv2.cvtColor(np.array([[bgr]], np.uint8), cv2.COLOR_BGR2LAB)[0, 0].astype(float)
    assert name in colour_name(lab[0] * 100 / 255, lab[1] - 128, lab[2] - 128)
