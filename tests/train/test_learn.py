"""Tests `make learn`: surfaces hide small defects, lessons are valid Indus-CoT, and examinations count correctly."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from cot_builder.inspection.proposals import propose
from cot_builder.inspection.rendering import system_prompt
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.inspection.tools.crop import crop
from eval.report.learn import write_learn_page
from schemas.errors import IndusCotError
from schemas.geometry import area, intersection
from train import corpus, examine, learn, pretrain, surfaces, tiny
from train.examine import Grade
from train.lessons import collect_vocabulary, draw_lessons, write_corpus
from train.model import load_processor
from train.surfaces import SMALL, draw_surface, snap_to_grid

CATEGORIES = range(9000, 9012)
CLOSED = ["</answer>"]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(
        folder,
        collect_vocabulary(draw_lessons(CATEGORIES, 6, {"none": 0.5, "large": 0.5}, (1,))),
        0,
        tiny.list_systems(),
        CLOSED,
    )
    return load_processor(str(folder))


def draw_surfaces(size: str, count: int = 48) -> list[surfaces.Surface]:
    return [
        draw_surface(CATEGORIES[seed % len(CATEGORIES)], size, np.random.default_rng(seed)) for seed in range(count)
    ]


@pytest.fixture(scope="module")
def small_and_twins():
    """Surfaces with a small defect, and the same ones without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surfaces, "CONTRAST", (0, 0))
        twins = draw_surfaces("small")
    return draw_surfaces("small"), twins


def scale_for_policy(processor, pixels: np.ndarray) -> np.ndarray:
    """Return the grey levels of an image as the policy sees it, from the values that enter the model."""
    inputs = processor(text="<|image_pad|>", images=[Image.fromarray(pixels[..., ::-1])], return_tensors="np")
    _, height, width = inputs["image_grid_thw"][0]
    blocks = inputs["pixel_values"].reshape(height // 2, width // 2, 2, 2, 3, 2, 8, 8)[:, :, :, :, :, 0]
    return (blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, height * 8, width * 8) * 0.5 + 0.5) * 255


def measure_roughness(shown: np.ndarray) -> float:
    """Return the largest local energy of fine structure."""
    grey = shown.mean(0)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 0.8)
    return float(cv2.GaussianBlur(fine * fine, (0, 0), 2.0)[4:-4, 4:-4].max())


@pytest.mark.slow
def test_small_defect_is_hidden_in_global_view(processor, small_and_twins):
    for surface, twin in zip(*small_and_twins, strict=True):
        assert np.abs(surface.pixels.astype(int) - twin.pixels).max() > 60
        left = np.abs(scale_for_policy(processor, surface.pixels) - scale_for_policy(processor, twin.pixels))
        # Rounding to eight bits moves a value by one now and then.
        assert left.max() < 1.5 and left.mean() < 0.01


@pytest.mark.slow
def test_roughness_finds_small_defect_only_in_crop(processor, small_and_twins):
    """Use the scaling of training and exams: with another downscaling, roughness once revealed small defects."""
    small, clean = small_and_twins[0], draw_surfaces("none")
    answers = [0] * len(clean) + [1] * len(small)

    def auroc(look) -> float:
        return roc_auc_score(
            answers, [measure_roughness(scale_for_policy(processor, look(one.pixels))) for one in [*clean, *small]]
        )

    assert abs(auroc(lambda pixels: pixels) - 0.5) < 0.15
    assert auroc(lambda pixels: crop(pixels).image) > 0.95


@pytest.mark.slow
def test_large_defect_is_visible_in_global_view(processor):
    for surface in draw_surfaces("large", 20):
        grey = scale_for_policy(processor, surface.pixels).mean(0)
        inside = cv2.resize(surface.mask, grey.shape, interpolation=cv2.INTER_AREA) > 100
        around = (cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) > 0) & ~inside
        assert abs(grey[inside].mean() - grey[around].mean()) > 12


@pytest.mark.slow
def test_backbone_sees_policy_images(processor):
    surface = draw_surfaces("small", 1)[0]
    for pixels in (surface.pixels, crop(surface.pixels).image):
        shown = pretrain.scale_image(processor, pixels)
        assert np.abs(shown.transpose(2, 0, 1) - scale_for_policy(processor, pixels)).max() < 0.01
        again = pretrain.scale_image(processor, np.ascontiguousarray(shown[..., ::-1]))
        assert np.array_equal(again, shown), "scaled once"


@pytest.mark.slow
def test_small_defects_stay_in_whole_maps(processor):
    looks = list(pretrain.draw_views(processor, CATEGORIES, 12, np.random.default_rng(3)))
    small = [look for look in looks if look.whole is None and look.word in SMALL]
    assert small and all(pretrain.mark_touched_cells(look.mask).any() for look in small)
    # The language model must not be taught labels that it cannot see.
    assert not any(pretrain.is_describable(look) for look in small)


def test_default_crop_shows_small_defect():
    hits = []
    for number in range(40):
        surface = draw_surface(9000 + number % 12, "small", np.random.default_rng(number))
        shown = propose(surface.pixels, 1)[0].box
        (truth,) = surface.boxes
        common = intersection(shown, truth)
        hits.append(common is not None and area(common) > 0.5 * area(truth))
    assert np.mean(hits) > 0.8


def test_equal_seeds_draw_equal_surfaces():
    first, again = (draw_surface(9001, "none", np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.boxes, first.defect_type, first.mask.any()) == ([], None, False)


def test_snapped_box_contains_the_box():
    assert snap_to_grid((101, 149, 250, 301)) == (100, 100, 250, 350)


def test_lessons_form_a_readable_corpus(tmp_path):
    taught = draw_lessons(CATEGORIES, 12, {"none": 0.4, "small": 0.3, "large": 0.3}, (1, 2))
    write_corpus(tmp_path / "indus_cot", taught, 1)
    rows = corpus.read(tmp_path / "indus_cot")["train"]
    assert [row["id"] for row in rows] == [lesson.name for lesson in taught]
    assert {row["answer"] for row in rows} == {"Yes", "No"}
    for row, lesson in zip(rows, taught, strict=True):
        looked = any(message["role"] == "tool" for message in row["messages"])
        assert looked or lesson.surface.size != "small"
        assert len(row["images"]) == 1 + looked


@pytest.mark.slow
@pytest.mark.parametrize("with_tools", [True, False])
def test_system_turn_is_one_token(processor, with_tools):
    said, schemas = system_prompt(with_tools), tool_schemas() if with_tools else None
    chat = [{"role": "system", "content": [{"type": "text", "text": said}]}]
    whole = processor.apply_chat_template(chat, tools=schemas, tokenize=False)
    ids = processor.tokenizer.encode(whole, add_special_tokens=False)
    assert len(ids) < 14
    assert processor.tokenizer.decode(ids) == whole
    assert len(processor.tokenizer.encode(CLOSED[0], add_special_tokens=False)) == 1


def make_grade(size: str, said: str | None, reward: float = 0.0) -> Grade:
    answer = "No" if size == "none" else "Yes"
    return Grade(
        size=size, answer=answer, said=said, valid=said is not None, calls=0, reward=reward, location=0, type=0
    )


def test_balanced_accuracy():
    grades = [
        make_grade("none", "No"),
        make_grade("none", "Yes"),
        *[make_grade("large", "Yes")] * 3,
        make_grade("small", None),
    ]
    assert examine.balanced_accuracy(grades) == pytest.approx((0.5 + 0.75) / 2)
    assert examine.balanced_accuracy_small(grades) == pytest.approx((0.5 + 0.0) / 2)
    assert examine.valid_share(grades) == pytest.approx(5 / 6)


def test_interval_pairs_images():
    rng = np.random.default_rng(1)
    before = [[make_grade("none", "No", float(value)) for value in rng.normal(0, 5, 40)] for _ in range(3)]
    after = [[make_grade("none", "No", grade.reward + 1) for grade in seed] for seed in before]
    mean, low, high = examine.bootstrap_interval(examine.mean_reward, after, before, draws=200)
    assert (mean, low, high) == pytest.approx((1, 1, 1))
    _, low, high = examine.bootstrap_interval(examine.mean_reward, after, draws=200)
    assert low < 0.7 and high > 1.3


FEW = {
    "SFT_IMAGES": 12,
    "GRPO_IMAGES": 4,
    "TEST_IMAGES": 8,
    "PRETRAIN_IMAGES": 4,
    "PRETRAIN_WHOLE_IMAGES": 2,
    "PRETRAIN_BATCH": 4,
    "VISIBILITY_IMAGES": 3,
    "VISION_STEPS": 2,
    "LANGUAGE_STEPS": 2,
}
BRIEFLY = (
    "sft.steps=1", "sft.batch=2", "grpo.steps=1", "grpo.batch=2", "grpo.group=2", "grpo.max_completion=40",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.train
def test_seed_is_trained_and_reported(tmp_path, monkeypatch):
    for name, value in FEW.items():
        monkeypatch.setattr(learn, name, value)
    learn.pretrain_backbone(tmp_path, 1)
    learn.run_seed(tmp_path, 0, BRIEFLY)
    result = json.loads((tmp_path / "seed-0/result.json").read_text())
    assert set(result["grades"]) == set(learn.ARMS)
    assert all(len(grades) == FEW["TEST_IMAGES"] for grades in result["grades"].values())
    found = learn.summarise([result, result])
    assert found["seeds"] == 2
    assert {claim["claim"] for claim in found["claims"]} > {words for words, *_ in learn.CLAIMS}
    # After a single training step, no claim can hold.
    assert not any(claim["holds"] for claim in found["claims"])
    found["seen"] = json.loads((tmp_path / "backbone/seen.json").read_text())
    (tmp_path / "learn.json").write_text(json.dumps(found))
    shown = write_learn_page(tmp_path).read_text()
    for words in (*learn.ARMS.values(), "small in the global view", "[0.000, 0.000]"):
        assert words in shown
    assert shown.count("<svg") == 4
    ElementTree.fromstring(shown[shown.index("<table>") : shown.index("</table>") + len("</table>")])


@pytest.mark.slow
def test_other_settings_need_another_folder(tmp_path):
    (tmp_path / "settings.json").write_text('["sft.steps=3"]')
    ran = subprocess.run(
        [sys.executable, "-m", "train.learn", "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "started with other settings" in ran.stderr and "Traceback" not in ran.stderr


def test_results_are_cached_until_code_changes(tmp_path, monkeypatch):
    for name in ("params.yaml", "profiles/learn.yaml", "train/learn.py", "cot_builder/inspection/tools/crop.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder, trained = Path("models/learn"), []

    def pretrain_backbone(target: Path, threads: int) -> None:
        (target / "backbone/seen.json").write_text("{}")

    class Child:
        """Stands for the process that trains a seed."""

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            trained.append(int(command[command.index("--only") + 1]))
            (folder / f"seed-{trained[-1]}/result.json").write_text("{}")

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(learn, "pretrain_backbone", pretrain_backbone)
    monkeypatch.setattr(learn.subprocess, "Popen", Child)
    # Skip the figures: another test covers them, and their resamples take long.
    monkeypatch.setattr(learn, "summarise", lambda _: {})

    def again() -> list[int]:
        trained.clear()
        learn.learn(folder, 2, 1, Path("reports"))
        return trained

    assert again() == [0, 1]
    assert again() == []
    (folder / "seed-1/result.json").unlink()
    assert again() == [1]
    with Path("cot_builder/inspection/tools/crop.py").open("a") as file:
        file.write("# edited\n")
    assert again() == [0, 1]
    profile = Path("profiles/learn.yaml")
    profile.write_text(re.sub(r"^  steps: \d+$", "  steps: 33", profile.read_text(), flags=re.MULTILINE))
    assert again() == [0, 1]
    assert again() == []
    with Path("train/learn.py").open("a") as file:
        file.write("# edited while a run is under way\n")
    with pytest.raises(IndusCotError, match="changed since the run started"):
        learn.run_seed(folder, 0)
