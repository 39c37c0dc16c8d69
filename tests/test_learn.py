"""What `make learn` stands on: the set is what it says, lessons are Indus-CoT, and examinations count right."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from cot_builder.inspection import tools
from cot_builder.inspection.rendering import system_prompt
from cot_builder.inspection.toolbox import tool_schemas
from schemas.geometry import area, intersection
from train import corpus, examine, learn, tiny
from train.examine import Grade
from train.lessons import lessons, vocabulary, write_corpus
from train.model import load_processor
from train.surfaces import LARGE, SIDE, SMALL, coarse, draw

CATEGORIES = range(9000, 9012)


def contrast(kind: str, scale: int) -> float:
    """Root mean square of what a defect changes, scaled down, over the pixels it touches."""
    import cv2

    found = []
    for category in CATEGORIES:
        for seed in range(40):
            with_defect = draw(category, "small" if kind in SMALL else "large", np.random.default_rng([seed, category]))
            if with_defect.defect_type != kind:
                continue
            found.append(_changed(with_defect.pixels, with_defect.mask, scale, cv2))
            break
    return float(np.mean(found))


def _changed(pixels: np.ndarray, mask: np.ndarray, scale: int, cv2) -> float:
    side = SIDE // scale
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    touched = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 100
    around = cv2.dilate(touched.astype(np.uint8), np.ones((9, 9))) > 0
    return float(np.sqrt(np.mean((small[touched] - small[around & ~touched].mean()) ** 2)))


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_defect_fades_in_the_global_view(kind):
    assert contrast(kind, 1) > 4 * contrast(kind, 4)


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_defect_stays(kind):
    assert contrast(kind, 4) > 0.7 * contrast(kind, 1)


def test_crop_without_a_region_shows_the_small_defect():
    hits = []
    for number in range(40):
        surface = draw(9000 + number % 12, "small", np.random.default_rng(number))
        shown = tools.propose(surface.pixels, 1)[0].box
        (truth,) = surface.boxes
        common = intersection(shown, truth)
        hits.append(common is not None and area(common) > 0.5 * area(truth))
    assert np.mean(hits) > 0.8


def test_equal_seeds_draw_equal_images_and_a_clean_one_has_no_truth():
    first, again = (draw(9001, "none", np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.boxes, first.defect_type, first.mask.any()) == ([], None, False)


def test_a_pointed_box_holds_the_truth():
    assert coarse((101, 149, 250, 301)) == (100, 100, 250, 350)


def test_lessons_are_a_corpus_that_training_reads(tmp_path):
    taught = lessons(CATEGORIES, 12, {"none": 0.4, "small": 0.3, "large": 0.3}, (1, 2))
    write_corpus(tmp_path / "indus_cot", taught, 1)
    rows = corpus.read(tmp_path / "indus_cot")["train"]
    assert [row["id"] for row in rows] == [lesson.name for lesson in taught]
    assert {row["answer"] for row in rows} == {"Yes", "No"}
    for row, lesson in zip(rows, taught, strict=True):
        looked = any(message["role"] == "tool" for message in row["messages"])
        assert looked or lesson.surface.size != "small"
        assert len(row["images"]) == 1 + looked


def test_a_system_turn_and_phrases_are_a_token_each(tmp_path):
    texts = vocabulary(lessons(CATEGORIES, 6, {"none": 0.5, "large": 0.5}, (1,)))
    tiny.build(tmp_path / "tiny", texts, 0, [(system_prompt(), tool_schemas())], ["</answer>"])
    processor = load_processor(str(tmp_path / "tiny"))
    chat = [{"role": "system", "content": [{"type": "text", "text": system_prompt()}]}]
    whole = processor.apply_chat_template(chat, tools=tool_schemas(), tokenize=False)
    ids = processor.tokenizer.encode(whole, add_special_tokens=False)
    assert len(ids) < 14
    assert processor.tokenizer.decode(ids) == whole
    assert len(processor.tokenizer.encode("</answer>", add_special_tokens=False)) == 1


def graded(size: str, said: str | None, reward: float = 0.0) -> Grade:
    answer = "No" if size == "none" else "Yes"
    return Grade(
        size=size, answer=answer, said=said, valid=said is not None, calls=0, reward=reward, location=0, type=0
    )


def test_balanced_accuracy_weighs_clean_and_defective_alike():
    grades = [graded("none", "No"), graded("none", "Yes"), *[graded("large", "Yes")] * 3, graded("small", None)]
    assert examine.balanced_accuracy(grades) == pytest.approx((0.5 + 0.75) / 2)
    assert examine.balanced_accuracy_small(grades) == pytest.approx((0.5 + 0.0) / 2)
    assert examine.valid(grades) == pytest.approx(5 / 6)


def test_an_interval_of_a_difference_pairs_the_images():
    rng = np.random.default_rng(1)
    before = [[graded("none", "No", float(value)) for value in rng.normal(0, 5, 40)] for _ in range(3)]
    after = [[graded("none", "No", grade.reward + 1) for grade in seed] for seed in before]
    mean, low, high = examine.interval(examine.mean_reward, after, before, draws=200)
    assert (mean, low, high) == pytest.approx((1, 1, 1))
    _, low, high = examine.interval(examine.mean_reward, after, draws=200)
    assert low < 0.7 and high > 1.3


FEW = {
    "LESSONS": 12,
    "PROMPTS": 4,
    "TESTS": 16,
    "IMAGES": 4,
    "WHOLES": 2,
    "BATCH": 4,
    "LOOKED_AT": 3,
    "SEE_STEPS": 2,
    "SPEAK_STEPS": 2,
}
BRIEFLY = (
    "sft.steps=1", "sft.batch=2", "grpo.steps=1", "grpo.batch=2", "grpo.group=2", "grpo.max_completion=40",
)  # fmt: skip


def test_a_seed_is_trained_and_examined_and_reported(tmp_path, monkeypatch):
    for name, value in FEW.items():
        monkeypatch.setattr(learn, name, value)
    learn.backbone(tmp_path, 1)
    learn.one(tmp_path, 0, BRIEFLY)
    result = json.loads((tmp_path / "seed-0/result.json").read_text())
    assert set(result["grades"]) == set(learn.ARMS)
    assert all(len(grades) == FEW["TESTS"] for grades in result["grades"].values())
    found = learn.report([result, result])
    assert found["seeds"] == 2
    assert {claim["claim"] for claim in found["claims"]} > {words for words, *_ in learn.CLAIMS}
    # What was not trained, or for a step only, cannot do what is claimed.
    assert not any(claim["holds"] for claim in found["claims"])
    shown = learn.page({**found, "seen": json.loads((tmp_path / "backbone/seen.json").read_text())})
    for words in (*learn.ARMS.values(), "small in the global view", "[0.000, 0.000]"):
        assert words in shown
    assert shown.count("<svg") == 4
    ElementTree.fromstring(shown[shown.index("<table>") : shown.index("</table>") + len("</table>")])


def test_what_was_begun_with_other_settings_is_kept_apart(tmp_path):
    (tmp_path / "settings.json").write_text('["sft.steps=3"]')
    ran = subprocess.run(
        [sys.executable, "-m", "train.learn", "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "begun with other settings" in ran.stderr and "Traceback" not in ran.stderr
