"""Tests of `select`: no overlap with evaluation sets, visible defects, balance, splits by part, reproducibility."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_builder.benchmarks.same_category import find_overlaps, match_category, share_a_word
from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.params import Params
from cot_builder.stages.select import select
from cot_builder.storage.images import encode_png
from cot_builder.storage.near_duplicates import THUMBNAIL_SIDE, Fingerprints, find_near_pairs
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from schemas.selection import SPLIT
from schemas.supervision import SUPERVISION
from tests.helpers.pulled import PulledImage, params_for, picture, write_pulled_set

EVALUATION = ("mvtec_ad", "visa", "mpdd", "dtd", "sdd")
SETS = {"real_iad": ("real_iad", "train"), "mvtec_ad": ("mvtec_ad", "evaluate")}
NAMES = st.text("abcdefghij", min_size=3, max_size=8)


def make_parts(
    category: str, count: int, views: Sequence[str] = ("C1", "C2"), defects: Sequence[str] = ("scratch",)
) -> list[PulledImage]:
    """Make ``count`` normal and ``count`` defective parts in each view; a third of the normal parts is in split train."""
    images = []
    for number in range(2 * count):
        defect = defects[number % len(defects)] if number >= count else None
        for view in views:
            images.append(
                PulledImage(category, f"S{number:04d}", view, defect, split="train" if number < count / 3 else "test")
            )
    return images


def run_select(
    tmp_path: Path, pool: Sequence[PulledImage], evaluation: Sequence[PulledImage] = (), **settings: object
) -> Workspace:
    workspace = Workspace(tmp_path)
    write_pulled_set(workspace, "real_iad", pool)
    write_pulled_set(workspace, "mvtec_ad", evaluation or [PulledImage("bottle", "000", "default")])
    select(params_for(SETS, **settings), workspace)
    return workspace


def read_chosen(workspace: Workspace) -> pl.DataFrame:
    samples = SAMPLE.read(workspace.select / "sample.parquet").rename({"split": "benchmark_split"})
    supervision = SUPERVISION.read(workspace.select / "supervision.parquet")
    splits = SPLIT.read(workspace.select / "split.parquet")
    assert samples["sample_id"].to_list() == supervision["sample_id"].to_list() == splits["sample_id"].to_list()
    return samples.join(supervision, on="sample_id").join(splits, on="sample_id")


def read_csv_rows(workspace: Workspace, name: str) -> list[dict[str, str]]:
    with (workspace.select / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_leakage(workspace: Workspace) -> dict:
    return json.loads((workspace.select / "leakage.json").read_text())


def test_official_names_match_the_paper() -> None:
    training = load_benchmarks()["real_iad"].BENCHMARK.categories
    official = {category for name in EVALUATION for category in load_benchmarks()[name].BENCHMARK.categories}
    assert len(training) == 30
    dropped = {category for category, _, _ in find_overlaps(training, official)}
    assert dropped == {"toothbrush", "zipper", "pcb", "transistor1"}
    assert len(set(training) - dropped) == 26
    assert {c for c, _, _ in find_overlaps([*training, "hazelnut"], official)} == dropped | {"hazelnut"}


@pytest.mark.parametrize(
    ("training", "evaluation", "rule"),
    [
        ("zipper", "zipper", "exact"),
        ("pcb", "pcb4", "normalised"),
        ("transistor1", "transistor", "normalised"),
        ("Hazelnut", "hazelnut", "normalised"),
        ("capsule", "capsules", "normalised"),
        ("chewing_gum", "chewinggum", "normalised"),
        ("Metal-Nuts", "metal_nut", "normalised"),
        ("MetalNut", "metal_nut", "normalised"),
        ("battery", "batteries", "normalised"),
        ("box", "boxes", "normalised"),
        ("size", "sizes", "normalised"),
        ("cache", "caches", "normalised"),
        ("sandwich", "sandwiches", "normalised"),
        ("switch", "switches", "normalised"),
        ("waltz", "waltzes", "normalised"),
        ("axe", "axes", "normalised"),
        ("nozzle", "nozzles", "normalised"),
        ("maze", "mat", None),
        ("woven", "Woven_001", "normalised"),
        ("bottle_cap", "bottle", None),
        ("plastic_nut", "hazelnut", None),
        ("plastic_nut", "metal_nut", None),
        ("vcpill", "pill", None),
        ("toy_brick", "toy", None),
        ("usb_adaptor", "usb", None),
        ("cookies", "cookie", "normalised"),
        ("ties", "tie", "normalised"),
        ("dies", "die", "normalised"),
        ("zip_ties", "zip_tie_02", "normalised"),
        ("potatoes", "potato", "normalised"),
        ("shoes", "shoe", "normalised"),
        ("lenses", "lens", "normalised"),
        ("glasses", "glass", "normalised"),
        ("buses", "bus", "normalised"),
        ("shelves", "shelf", "normalised"),
        ("knives", "knife", "normalised"),
        ("valves", "valve", "normalised"),
        ("matrices", "matrix", "normalised"),
        ("devices", "device", "normalised"),
        ("ties", "toy", None),
        ("glass", "glas", None),
        ("bus", "bu", None),
        ("123", "456", None),
    ],
)
def test_category_names_are_normalised(training: str, evaluation: str, rule: str | None) -> None:
    assert match_category(training, evaluation) == rule
    assert match_category(evaluation, training) == rule


@given(NAMES, NAMES, st.integers(0, 99), st.sampled_from("_- "))
def test_numbers_and_separators_are_ignored(first: str, second: str, number: int, separator: str) -> None:
    name = f"{first}{separator}{second}"
    assert match_category(name, f"{first}_{second}{number}")
    assert match_category(name.upper(), f"{first}{second}")
    assert not match_category(name, second)
    assert share_a_word(name, second)


@pytest.mark.parametrize(
    ("training", "evaluation", "flagged"),
    [
        ("woodstick", "wood", True),
        ("wooden_beads", "wood", True),
        ("wood", "plywood", True),
        ("plastic_nut", "metal_nut", True),
        ("vcpill", "pill", True),
        ("eraser", "pill", False),
        ("redwoods", "wool", False),
    ],
)
def test_similar_names_are_flagged_only(training: str, evaluation: str, flagged: bool) -> None:
    assert share_a_word(training, evaluation) == share_a_word(evaluation, training) == flagged
    assert find_overlaps([training], [evaluation]) == []


def test_overlapping_categories_are_dropped(tmp_path: Path) -> None:
    # The local copy of MVTec-AD contains only bottles; hazelnut and transistor are in the published list.
    pool = [image for name in ("ball_screw", "hazelnut", "transistor1", "bottle_cap") for image in make_parts(name, 2)]
    workspace = run_select(tmp_path, pool)
    assert set(read_chosen(workspace)["category"]) == {"ball_screw", "bottle_cap"}
    assert [(r["category"], r["evaluation_category"], r["rule"], r["samples"]) for r in read_csv_rows(workspace, "dropped_categories.csv")] == [
        ("hazelnut", "hazelnut", "exact", "8"),
        ("transistor1", "transistor", "normalised", "8"),
    ]  # fmt: skip
    page = (workspace.select / "leakage.md").read_text()
    assert "| hazelnut | 8 | hazelnut | mvtec_ad | exact |" in page
    assert "| bottle_cap | bottle | mvtec_ad |" in page
    assert "| mvtec_ad | MVTec AD | 1 | 5354 | 1 | 1 | 15 |" in page


def test_local_categories_count_without_official_list(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_pulled_set(workspace, "real_iad", [*make_parts("gear", 2), *make_parts("lid", 2)])
    write_pulled_set(workspace, "ours", [PulledImage("Gears", "1")])
    select(params_for({"real_iad": ("real_iad", "train"), "ours": ("folder", "evaluate")}), workspace)
    assert set(read_chosen(workspace)["category"]) == {"lid"}
    assert read_leakage(workspace)["evaluation_sets"][0]["published_images"] is None


def test_overrides_are_applied_and_reported(tmp_path: Path) -> None:
    pool = [image for name in ("hazelnut", "lid", "gear") for image in make_parts(name, 2)]
    settings: dict[str, Any] = {"select__keep_categories": ["hazelnut", "lid"], "select__drop_categories": ["gear"]}
    workspace = run_select(tmp_path, pool, **settings)
    assert set(read_chosen(workspace)["category"]) == {"hazelnut", "lid"}
    assert read_leakage(workspace)["overrides"] == {
        "kept": ["hazelnut"],
        "kept_without_need": ["lid"],
        "dropped": ["gear"],
    }
    assert "Kept by `keep_categories` against the rule: `hazelnut`" in (workspace.select / "leakage.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select__drop_categories": ["geer"]}, r"select\.drop_categories lists geer, .* they have: gear, hazelnut"),
        ({"select__keep_categories": ["nut"]}, r"select\.keep_categories lists nut"),
        ({"select__keep_categories": ["gear"], "select__drop_categories": ["gear"]}, "both list gear"),
        ({"select__drop_categories": ["gear"]}, "no samples remain: 0 of 16 samples are"),
    ],
)
def test_contradictory_overrides_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(IndusCotError, match=message):
        run_select(tmp_path, [*make_parts("gear", 2), *make_parts("hazelnut", 2)], **settings)
    assert not (tmp_path / "data" / "select").exists()


def test_copies_of_evaluation_images_are_dropped(tmp_path: Path) -> None:
    original = picture("original", 256, 200)
    half = cv2.resize(original, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    coarse = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    third = cv2.vconcat([picture("above", 256, 200), original])
    pool = [
        *make_parts("lid", 3),
        PulledImage("lid", "half", data=encode_png(half)),
        PulledImage("lid", "coarse", data=coarse),
        PulledImage("lid", "bytes", data=encode_png(original)),
        PulledImage("lid", "third", data=encode_png(third), region=(0, 200, 256, 400)),
        PulledImage("lid", "upper", data=encode_png(third), region=(0, 0, 256, 200)),
    ]
    evaluation = [
        PulledImage("bottle", "000", "default", data=encode_png(original)),
        PulledImage("bottle", "001", "default"),
    ]
    workspace = run_select(tmp_path, pool, evaluation)
    pairs = {row["source_path"].split("/")[-1]: row for row in read_csv_rows(workspace, "near_duplicates.csv")}
    assert set(pairs) == {"half_C1.png", "coarse_C1.png", "bytes_C1.png", "third_C1.png"}
    assert {row["evaluation_source_path"] for row in pairs.values()} == {"bottle/good/000_default.png"}
    assert [pairs[f"{name}_C1.png"]["kind"] for name in ("half", "bytes")] == ["perceptual", "bytes"]
    assert int(pairs["half_C1.png"]["differing_bits"]) <= 4
    assert not set(read_chosen(workspace)["source_path"]) & {row["source_path"] for row in pairs.values()}
    excluded = [
        row for row in read_csv_rows(workspace, "excluded.csv") if row["reason"] == "copy of an evaluation image"
    ]
    assert {row["sample_id"] for row in excluded} == {row["sample_id"] for row in pairs.values()}


def test_featureless_images_are_not_copies(tmp_path: Path) -> None:
    def flat(level: int) -> bytes:
        return encode_png(np.full((80, 96, 3), level, np.uint8))

    pool = [*make_parts("lid", 2), *(PulledImage("lid", f"flat{level}", data=flat(level)) for level in (20, 120, 220))]
    workspace = run_select(tmp_path, pool, [PulledImage("bottle", f"{n}", data=flat(n)) for n in (20, 121, 221)])
    assert [row["kind"] for row in read_csv_rows(workspace, "near_duplicates.csv")] == ["bytes"]
    assert read_leakage(workspace)["featureless"] == 3


def test_equal_hashes_need_similar_thumbnails() -> None:
    random = np.random.default_rng(0)
    thumbnails = random.integers(0, 255, (3, THUMBNAIL_SIDE, THUMBNAIL_SIDE), dtype=np.uint8)
    first = Fingerprints(["a", "b"], np.array([5, 6], np.uint64), thumbnails[:2])
    second = Fingerprints(["c", "d", "e"], np.array([5, 4, 2**64 - 1], np.uint64), thumbnails[[0, 2, 1]])
    found = find_near_pairs(first, second, bits=1)
    assert [(i, j, bits) for i, j, bits, _ in found.pairs] == [(0, 0, 0)]
    assert found.refused == 2
    assert find_near_pairs(first, second, bits=64).refused == 4


def test_search_matches_brute_force() -> None:
    random = np.random.default_rng(1)
    same = np.tile(random.integers(0, 255, (1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), dtype=np.uint8), (700, 1, 1))
    base = random.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.left_shift(np.uint64(1), random.integers(0, 64, (2, 700), dtype=np.uint64))
    left = base[random.integers(0, 40, 700)] ^ flips[0]
    right = base[random.integers(0, 40, 50)] ^ flips[1, :50]
    found = find_near_pairs(
        Fingerprints([""] * 700, left, same), Fingerprints([""] * 50, right, same[:50]), bits=2
    )  # fmt: skip
    expected = [
        (i, j, distance)
        for i in range(700)
        for j in range(50)
        if (distance := (int(left[i]) ^ int(right[j])).bit_count()) <= 2
    ]
    assert [(i, j, bits) for i, j, bits, _ in found.pairs] == expected
    assert len(expected) > 100


def test_invisible_defects_are_dropped(tmp_path: Path) -> None:
    pool = [
        *make_parts("lid", 3),
        PulledImage("lid", "tiny", defect="dent", area_fraction=0.00001),
        PulledImage("lid", "unseen", defect="dent", box=None, area_fraction=0.0),
        PulledImage("lid", "maskless", defect="dent", area_fraction=None),
    ]
    workspace = run_select(tmp_path, pool)
    seen = {row["sample_id"]: row["detail"] for row in read_csv_rows(workspace, "excluded.csv")}
    ids = {image.part: image.sample_id("real_iad") for image in pool[-3:]}
    assert seen == {ids["tiny"]: "mask covers 1e-05 of the image", ids["unseen"]: "no box"}
    assert ids["maskless"] in read_chosen(workspace)["sample_id"].to_list()


def test_balance_within_category_and_view(tmp_path: Path) -> None:
    pool = [
        *make_parts("lid", 5),
        *make_parts("gear", 3, views=("C1", "C2", "C3")),
        *(PulledImage("lid", f"more{n}", "C1") for n in range(9)),
        *(PulledImage("lid", f"more{n}", "C4") for n in range(9)),
    ]
    table = read_chosen(run_select(tmp_path, pool, select__samples=1000))
    cells = table.group_by("category", "view").agg(
        (pl.col("label") == "normal").sum().alias("n"), (pl.col("label") == "anomalous").sum().alias("a")
    )
    assert (cells["n"] == cells["a"]).all()
    assert {("lid", "C1"), ("lid", "C2"), ("gear", "C1"), ("gear", "C2"), ("gear", "C3")} == set(
        cells.select("category", "view").iter_rows()
    )
    assert table.height == 2 * (5 * 2 + 3 * 3)


def test_samples_are_spread_evenly(tmp_path: Path) -> None:
    defects = ("scratch", "scratch", "scratch", "dent", "stain", "scratch")
    pool = [
        *make_parts("lid", 12, defects=defects),
        *make_parts("gear", 12, defects=defects),
        *make_parts("rare", 2, defects=("dent",)),
    ]
    table = read_chosen(run_select(tmp_path, pool, select__samples=48))
    assert table.height == 48
    # The rare category has four pairs (two parts, two views); the others share the rest evenly.
    assert dict(table["category"].value_counts().iter_rows()) == {"lid": 20, "gear": 20, "rare": 8}
    for category in ("lid", "gear"):
        own = table.filter(pl.col("category") == category)
        types = Counter(own["defect_type"].drop_nulls().to_list())
        assert max(types.values()) - min(types.values()) <= 2, types
        splits = Counter(own.filter(pl.col("label") == "normal")["benchmark_split"].to_list())
        assert abs(splits["train"] - splits["test"]) <= 2, splits


@pytest.mark.parametrize("samples", [2, 3, 7, 10])
def test_never_selects_too_many(tmp_path: Path, samples: int) -> None:
    table = read_chosen(run_select(tmp_path, make_parts("lid", 6), select__samples=samples))
    assert table.height == samples // 2 * 2


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 1.0])
def test_parts_stay_in_one_split(tmp_path: Path, fraction: float) -> None:
    pool = [*make_parts("lid", 8, defects=("scratch", "dent")), *make_parts("gear", 8, views=("C1", "C2", "C3"))]
    workspace = run_select(tmp_path, pool, select__samples=1000, select__validation_fraction=fraction)
    table = read_chosen(workspace)
    assert table.group_by("part_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 32
    assert read_leakage(workspace)["parts"] == {"parts": 32, "in_both_splits": []}
    if fraction == 0.0:
        assert set(table["split"]) == {"train"}
        return
    for split in ("train", "validation"):
        found = set(table.filter(pl.col("split") == split).select("category", "label").iter_rows())
        assert found == {(c, label) for c in ("lid", "gear") for label in ("normal", "anomalous")}
    if fraction == 0.4:
        assert abs(table.filter(pl.col("split") == "validation").height / table.height - fraction) < 0.08
        held = table.filter((pl.col("split") == "validation") & (pl.col("category") == "lid"))
        assert set(held["defect_type"].drop_nulls()) == {"scratch", "dent"}


def test_two_parts_give_two_splits(tmp_path: Path) -> None:
    table = read_chosen(run_select(tmp_path, make_parts("lid", 1)))
    assert set(table["split"]) == {"train", "validation"}


def test_row_order_does_not_matter(tmp_path: Path) -> None:
    pool = [*make_parts("lid", 10), *make_parts("gear", 10)]
    first = run_select(tmp_path / "a", pool, select__samples=20)
    second = run_select(tmp_path / "b", pool[::-1], select__samples=20, compute__workers=1)
    third = run_select(tmp_path / "c", pool, select__samples=20, run__seed=8)
    for name in ("split.parquet", "supervision.parquet"):
        left, right = (pl.read_parquet(w.select / name).drop("mask_row", strict=False) for w in (first, second))
        assert left.equals(right)
    assert read_leakage(first) == read_leakage(second)
    assert read_chosen(first)["sample_id"].to_list() != read_chosen(third)["sample_id"].to_list()


def test_identical_images_are_dropped(tmp_path: Path) -> None:
    twin, disputed = encode_png(picture("twin")), encode_png(picture("disputed"))
    pool = [
        *make_parts("lid", 3),
        PulledImage("lid", "twin1", data=twin),
        PulledImage("lid", "twin2", data=twin),
        PulledImage("lid", "good", data=disputed),
        PulledImage("lid", "bad", defect="crack", data=disputed),
    ]
    workspace = run_select(tmp_path, pool)
    reasons = Counter(row["reason"] for row in read_csv_rows(workspace, "excluded.csv"))
    assert reasons == {
        "same bytes as another training sample": 1,
        "same bytes as a training sample with another label": 2,
    }
    assert "| dropped | same bytes as |" in (workspace.select / "leakage.md").read_text()


def test_damaged_images_are_reported(tmp_path: Path) -> None:
    pool = [
        *make_parts("lid", 3),
        PulledImage("lid", "broken", data=b"no image"),
        PulledImage("lid", "cut", data=b"\x89PNG\r\n"),
    ]
    workspace = run_select(
        tmp_path, pool, [PulledImage("bottle", "0"), PulledImage("bottle", "1", data=b"\xff\xd8\xff")]
    )
    left_out = {row["item"]: row for row in read_csv_rows(workspace, "left_out.csv")}
    assert {image.sample_id("real_iad") for image in pool[-2:]} < set(left_out)
    assert len(left_out) == 3
    assert any("evaluation image, not compared" in row["detail"] for row in left_out.values())
    manifest = json.loads((workspace.select / "manifest.json").read_text())
    assert manifest["left_out"] == {"image does not decode": 3}
    assert not set(read_chosen(workspace)["sample_id"]) & set(left_out)
    with pytest.raises(IndusCotError, match="image does not decode"):
        run_select(tmp_path / "strict", pool, run__strict=True)


def test_missing_input_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(IndusCotError, match="role train"):
        select(params_for({"mvtec_ad": ("mvtec_ad", "evaluate")}), workspace)
    write_pulled_set(workspace, "real_iad", make_parts("lid", 2))
    with pytest.raises(IndusCotError, match=r"mvtec_ad/sample\.parquet: not found"):
        select(params_for(SETS), workspace)
    write_pulled_set(workspace, "mvtec_ad", [PulledImage("bottle", "0"), PulledImage("bottle", "1")])
    path = workspace.pull("mvtec_ad") / "supervision.parquet"
    SUPERVISION.write(SUPERVISION.read(path).head(1), path)
    with pytest.raises(IndusCotError, match=r"has no row for 1 sample\(s\), first mvtec_ad/bottle/.*pull mvtec_ad"):
        select(params_for(SETS), workspace)


def test_nothing_to_balance(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match="no category and view has both a normal and a visibly anomalous sample"):
        run_select(tmp_path, [PulledImage("lid", f"{n}", "C1") for n in range(4)])


def test_report_without_evaluation_sets(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_pulled_set(workspace, "real_iad", make_parts("hazelnut", 2))
    select(params_for({"real_iad": ("real_iad", "train")}), workspace)
    assert set(read_chosen(workspace)["category"]) == {"hazelnut"}
    assert "No evaluation set is configured, so nothing was checked" in (workspace.select / "leakage.md").read_text()


@pytest.mark.slow
def test_process_count_does_not_change_pairs(tmp_path: Path) -> None:
    small = [PulledImage("lid", f"{n:03d}", "C1", "dent" if n % 2 else None) for n in range(420)]
    copy = [
        PulledImage("bottle", "0", data=encode_png(cv2.resize(picture("real_iad/lid/good/010_C1.png"), (192, 160))))
    ]
    first = run_select(tmp_path / "a", small, copy, compute__workers=2)
    shutil.copytree(tmp_path / "a" / "data" / "pull", tmp_path / "b" / "data" / "pull")
    second = Workspace(tmp_path / "b")
    params: Params = params_for(SETS, compute__workers=1)
    select(params, second)
    assert [row["source_path"] for row in read_csv_rows(first, "near_duplicates.csv")] == ["lid/good/010_C1.png"]
    for name in ("near_duplicates.csv", "leakage.json"):
        assert (first.select / name).read_bytes() == (second.select / name).read_bytes()
