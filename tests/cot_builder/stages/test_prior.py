"""Tests of normalcy priors: measured on normal training images only, and described without other facts."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.normalcy import describe_normalcy, measure_normalcy
from cot_builder.params import Params
from cot_builder.stages.prior import prior
from cot_builder.stages.select import select
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.prior import PRIOR, NormalcyPrior
from schemas.selection import SPLIT
from tests.helpers.pulled import PulledImage, params_for, picture, write_pulled_set

SETS = {"real_iad": ("real_iad", "train"), "mvtec_ad": ("mvtec_ad", "evaluate")}
RED, BLUE, WHITE, BLACK = (0, 0, 220), (200, 60, 0), (255, 255, 255), (0, 0, 0)


def draw_plain_image(width: int = 240, height: int = 180, colour: Sequence[int] = WHITE) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def draw_block(
    box: tuple[int, int, int, int] = (80, 50, 160, 130), colour: Sequence[int] = RED, ground: Sequence[int] = WHITE
) -> np.ndarray:
    image = draw_plain_image(colour=ground)
    image[box[1] : box[3], box[0] : box[2]] = colour
    return image


def describe_images(*images: np.ndarray, category: str = "metal_plate", view: str = "default") -> str:
    return describe_normalcy(category, view, measure_normalcy(images))


# Tests of the stage


def make_pool() -> list[PulledImage]:
    """Twelve normal and twelve defective parts in two views."""
    return [
        PulledImage("bracket", f"S{number:04d}", view, "scratch" if number % 2 else None, split="test")
        for number in range(24)
        for view in ("C1", "C2")
    ]


def make_evaluation_set() -> list[PulledImage]:
    bottles = [PulledImage("bottle", f"train{number}", "default", split="train") for number in range(4)]
    bottles += [PulledImage("bottle", f"test{number}", "default", split="test") for number in range(3)]
    bottles += [PulledImage("bottle", f"bad{number}", "default", "crack", split="test") for number in range(2)]
    return [
        *bottles,
        PulledImage("capsule", "good", "default", split="test"),
        PulledImage("capsule", "b", "default", "crack"),
    ]


def prepare(root: Path, extra: Sequence[PulledImage] = (), **values: object) -> tuple[Params, Workspace]:
    workspace, params = Workspace(root), params_for(SETS, **values)
    write_pulled_set(workspace, "real_iad", make_pool())
    write_pulled_set(workspace, "mvtec_ad", [*make_evaluation_set(), *extra])
    select(params, workspace)
    return params, workspace


def read_rows(workspace: Workspace) -> dict[str, NormalcyPrior]:
    return {row.prior_id: row for row in PRIOR.records(PRIOR.read(workspace.prior / "prior.parquet"))}


def read_left_out(workspace: Workspace) -> list[tuple[str, str]]:
    with (workspace.prior / "left_out.csv").open(newline="", encoding="utf-8") as file:
        return [(row["reason"], row["item"]) for row in csv.DictReader(file)]


def test_only_normal_training_images_are_measured(tmp_path: Path) -> None:
    params, workspace = prepare(tmp_path)
    prior(params, workspace)
    rows = read_rows(workspace)
    assert rows.keys() == {"real_iad/bracket/C1", "real_iad/bracket/C2", "mvtec_ad/bottle/default"}

    allowed: dict[str, set[str]] = {}
    chosen = dict(SPLIT.read(workspace.select / "split.parquet").iter_rows())
    assert set(chosen.values()) == {"train", "validation"}
    for name, usable in (
        ("real_iad", pl.col("sample_id").replace_strict(chosen, default="none") == "train"),
        ("mvtec_ad", pl.col("split") == "train"),
    ):
        samples = pl.read_parquet(workspace.pull(name) / "sample.parquet")
        labels = pl.read_parquet(workspace.pull(name) / "supervision.parquet")
        table = samples.join(labels, on="sample_id").filter(usable & (pl.col("label") == "normal"))
        for row in table.iter_rows(named=True):
            allowed.setdefault(f"{name}/{row['category']}/{row['view']}", set()).add(row["image_sha256"])
    for key, row in rows.items():
        assert set(row.image_sha256) == allowed[key], "all of them, since there are fewer than prior.max_images"
        assert row.image_count == len(row.image_sha256) == json.loads(row.facts)["images"]
        assert row.author == "measured" and row.version

    assert read_left_out(workspace) == [("no normal image in the training split", "mvtec_ad/capsule/default")]
    assert read_manifest(workspace.prior)["counts"] == {
        "priors": 3,
        "images": sum(row.image_count for row in rows.values()),
    }
    readable = (workspace.prior / "priors.md").read_text()
    assert all(key in readable and row.text in readable for key, row in rows.items())


def test_seed_determines_the_drawn_images(tmp_path: Path) -> None:
    params, workspace = prepare(tmp_path, prior__max_images=2)
    found = []
    for seed in (1, 1, 2, 3):
        values = params.model_dump()
        values["run"]["seed"] = seed
        prior(Params.model_validate(values), workspace)
        found.append((workspace.prior / "prior.parquet").read_bytes())
        assert {row.image_count for row in read_rows(workspace).values()} == {2}
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_damaged_images_are_left_out(tmp_path: Path) -> None:
    broken = PulledImage("bottle", "broken", "default", split="train", data=b"\x89PNG\r\n\x1a\n of no use")
    alone = PulledImage("cable", "alone", "default", split="train", data=b"\x89PNG\r\n\x1a\n of no use either")
    params, workspace = prepare(tmp_path, [broken, alone])
    prior(params, workspace)
    bottle = read_rows(workspace)["mvtec_ad/bottle/default"]
    assert bottle.image_count == 4
    assert hashlib.sha256(broken.data).hexdigest() not in bottle.image_sha256
    assert sorted(read_left_out(workspace)) == sorted(
        [
            ("damaged image", broken.sample_id("mvtec_ad")),
            ("damaged image", alone.sample_id("mvtec_ad")),
            ("no normal image in the training split", "mvtec_ad/capsule/default"),
            ("no normal image that decodes", "mvtec_ad/cable/default"),
        ]
    )


def test_strict_run_stops_at_damaged_image(tmp_path: Path) -> None:
    broken = PulledImage("bottle", "broken", "default", split="train", data=b"\x89PNG\r\n\x1a\n of no use")
    capsule = PulledImage("capsule", "first", "default", split="train")
    params, workspace = prepare(tmp_path, [broken, capsule])
    prior(params, workspace)
    before = (workspace.prior / "prior.parquet").read_bytes()
    values = params.model_dump()
    values["run"]["strict"] = True
    with pytest.raises(IndusCotError, match=f"{broken.sample_id('mvtec_ad')}: damaged image"):
        prior(Params.model_validate(values), workspace)
    assert (workspace.prior / "prior.parquet").read_bytes() == before


def test_no_normal_training_images(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    params = params_for({"mvtec_ad": ("mvtec_ad", "evaluate")})
    write_pulled_set(
        workspace, "mvtec_ad", [PulledImage("bottle", "good"), PulledImage("bottle", "bad", defect="crack")]
    )
    for name in ("sample", "split"):
        (workspace.select / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        (workspace.select / f"{name}.parquet").write_bytes(b"")
    with pytest.raises(IndusCotError, match="no category has a normal image in a training split"):
        prior(params, workspace)
    assert not workspace.prior.exists()


def test_missing_selection_names_the_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in SETS:
        write_pulled_set(workspace, name, make_evaluation_set())
    with pytest.raises(IndusCotError, match=r"select/sample.parquet: not found; first run the stage that makes it"):
        prior(params_for(SETS), workspace)


# Tests of the measured facts and of the text


def test_text_describes_a_red_square() -> None:
    facts = measure_normalcy([draw_block()] * 2)
    assert facts["colours"] == {"red": 1.0} and facts["backgrounds"] == {"white": 1.0}
    assert facts["share"]["median"] == pytest.approx(80 * 80 / (240 * 180), rel=0.1)
    assert facts["aspect"]["median"] == pytest.approx(1, abs=0.03)
    assert (facts["centre_x"]["median"], facts["centre_y"]["median"]) == pytest.approx((0.5, 0.5), abs=0.01)
    text = describe_normalcy("metal_plate", "default", facts)
    for phrase in (
        "A metal plate takes about 16 % of the image, lies in the middle and is about as wide as high.",
        "Its colour is red",
        "on a background that is white",
        "Left and right mirror each other, and so do top and bottom.",
        "Measured on 2 defect-free images.",
    ):
        assert phrase in text


@pytest.mark.parametrize(
    ("image", "phrase"),
    [
        (draw_block(colour=BLUE), "Its colour is blue"),
        (draw_block(ground=BLACK), "on a background that is black"),
        (draw_block((20, 50, 220, 100)), "is wider than high, 3.9 to 1."),
        (draw_block((110, 10, 130, 170)), "is higher than wide, 1 to 7.4."),
        (draw_block((117, 10, 125, 170)), "lies in the middle and is higher than wide, 1 to "),
        (draw_block((10, 10, 90, 90)), "lies off the middle"),
        (draw_block((60, 20, 180, 160)), "takes about 40 % of the image"),
    ],
)
def test_different_parts_have_different_texts(image: np.ndarray, phrase: str) -> None:
    assert phrase in describe_images(image, image)
    assert phrase not in describe_images(draw_block(), draw_block())


def test_asymmetric_part_is_not_called_symmetric() -> None:
    image = draw_block((60, 20, 180, 160))
    image[20:160, 60:120] = (0, 0, 90)
    assert "Top and bottom mirror each other." in describe_images(image)
    assert "Left and right" not in describe_images(image)
    assert "Left and right mirror each other." in describe_images(np.ascontiguousarray(image.transpose(1, 0, 2)))


def test_texture_direction_is_described() -> None:
    rows = np.arange(200)
    stripes = np.repeat((128 + 90 * np.sign(np.sin(rows / 3)))[:, None, None], 200, axis=1).repeat(3, axis=2)
    across = stripes.astype(np.uint8)
    assert "its structure runs horizontally" in describe_images(across)
    assert "a pattern repeats in it at an even distance" in describe_images(across)
    assert "its structure runs vertically" in describe_images(np.ascontiguousarray(across.transpose(1, 0, 2)))


def test_irregular_pattern_has_no_direction_or_period() -> None:
    texts = [describe_images(picture(f"no course {number}", 200, 200)) for number in range(40)]
    assert sum("its structure runs" in text for text in texts) == 0
    assert sum("a pattern repeats" in text for text in texts) <= 4


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("shade", [10, 230])
def test_similar_features_are_counted(count: int, shade: int) -> None:
    image = draw_plain_image(320, 240, (230, 230, 230))
    image[60:180, 30:290] = 90
    for number in range(count):
        cv2.circle(image, (60 + 45 * number, 120), 10, (shade,) * 3, -1)
    assert f"It shows {count} features of like size." in describe_images(image)


def test_background_beside_round_part_is_no_feature() -> None:
    image = draw_plain_image(240, 240, (230, 230, 230))
    cv2.circle(image, (120, 120), 70, (60, 60, 60), -1)
    assert "features" not in describe_images(image) and "features" not in describe_images(draw_block())


def test_varying_brightness_gives_a_range() -> None:
    images = [draw_block(colour=(level, level, level)) for level in (30, 60, 120)]
    facts = measure_normalcy(images)
    low, high = round(facts["brightness"]["least"]), round(facts["brightness"]["greatest"])
    assert f"(mean grey {low} to {high}) without being a fault" in describe_images(*images)
    alike = describe_images(*[draw_block()] * 3)
    assert "hardly varies from part to part" in alike and "fault" not in alike


def test_text_names_view_and_image_count() -> None:
    assert describe_images(draw_block(), view="C3").endswith("Measured on 1 defect-free image from view C3.")
    assert describe_images(draw_block(), draw_block()).endswith("Measured on 2 defect-free images.")
    assert describe_images(draw_block(), category="Woven_001").startswith("A woven takes")
    assert describe_images(draw_block(), category="eraser").startswith("An eraser takes")


def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        measure_normalcy(iter(()))


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    width = draw(st.sampled_from([1, 2, 5, 40, 90, 600]))
    height = draw(st.sampled_from([1, 3, 24, 60, 140]))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["flat", "noise", "part", "structure"]))
    if kind == "flat":
        return draw_plain_image(width, height, random.integers(0, 256, 3).tolist())
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "structure":
        return picture(str(random.integers(99)), width, height)
    image = draw_plain_image(width, height)
    x, y = random.integers(0, width), random.integers(0, height)
    image[y : y + max(1, height // 3), x : x + max(1, width // 3)] = random.integers(0, 256, 3)
    return image


@settings(max_examples=120, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4))
def test_every_number_in_the_text_was_measured(found: list[np.ndarray]) -> None:
    facts = measure_normalcy(found)
    assert facts["images"] == len(found)
    assert json.loads(json.dumps(facts)) == facts
    for name, fact in facts.items():
        if isinstance(fact, dict) and "median" in fact:
            assert fact["least"] <= fact["median"] <= fact["greatest"], name
            assert 1 <= fact["images"] <= len(found)
    assert sum(facts["colours"].values()) <= 1.01

    text = describe_normalcy("seal", "C1", facts)
    values = [len(found)]
    for name in ("share", "brightness", "detail", "repeats", "aspect"):
        for number in (facts[name]["least"], facts[name]["median"], facts[name]["greatest"]) if name in facts else ():
            values += [number, 100 * number, 1 / number if number else 0, 1]
    for number in map(float, re.findall(r"\d+(?:\.\d+)?", text.replace("view C1", ""))):
        digits = 0.06 if number % 1 else 0.51
        assert any(abs(number - value) <= digits for value in values), (number, text)
    assert NormalcyPrior.model_fields["text"].metadata[0].min_length <= len(text)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (8, 3000), (3000, 8), (64, 64)])
def test_flat_and_extreme_images_are_measured(shape: tuple[int, int]) -> None:
    text = describe_images(np.full((*shape, 3), 90, np.uint8))
    assert "seen close, without a plain background" in text and "dark grey" in text
    assert not any(word in text for word in ("mirror", "runs", "repeats", "features", "nan"))
    assert text == describe_images(np.full((*shape, 3), 90, np.uint8))


def test_encoding_does_not_matter() -> None:
    image = picture("encoded", 200, 120)
    again = cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_COLOR)
    assert measure_normalcy([image]) == measure_normalcy([again])
