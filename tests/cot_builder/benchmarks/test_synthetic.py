"""Tests of rendered data sets: official layouts and labels, exact masks, equal bytes for equal seeds."""

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from cot_builder.benchmarks import sdd, visa
from cot_builder.benchmarks.labels import list_labels
from cot_builder.benchmarks.synthetic.camera import VISIBLE
from cot_builder.benchmarks.synthetic.rendering import File, RenderedPhoto, render_files, render_photographs
from cot_builder.benchmarks.table import find_rendering
from cot_builder.params import Synthetic
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT

SETS = ("mvtec_ad", "visa", "mpdd", "dtd", "sdd", "real_iad")
SMALL = Synthetic(size=192, categories=4, parts=8, views=3)
SEED = 7
Case = tuple[str, dict[str, bytes], list[RenderedPhoto]]
OFFICIAL = {
    "mvtec_ad": r"\w+/(train/good|test/\w+)/\d{3}\.png|\w+/ground_truth/(?!good)\w+/\d{3}_mask\.png",
    "visa": r"split_csv/1cls\.csv|\w+/(image_anno\.csv|Data/Images/(Normal|Anomaly)/\d{3}\.JPG|"
    r"Data/Masks/Anomaly/\d{3}\.png)",
    "mpdd": r"\w+/(train/good|test/\w+)/\d{3}\.png|\w+/ground_truth/(?!good)\w+/\d{3}_mask\.png",
    "dtd": r"[A-Z][a-z]+_\d{3}/((train/good|test/(good|bad))/\d{3}\.png|ground_truth/bad/\d{3}_mask\.png)",
    "sdd": r"kos\d\d/Part\d(\.jpg|_label\.bmp)",
    "real_iad": r"realiad_jsons/(\w+)\.json|realiad_1024/(\w+)/(OK/S(\d{4})/\2_\4_OK|NG/([A-Z]{2})/S(\d{4})/\2_\6_NG_\5)"
    r"_C[1-5]_20231021130716\.(jpg|png)",
}


def render_set(name: str, settings: Synthetic, seed: int, workers: int = 1) -> Iterator[File]:
    return render_files(find_rendering(name), settings, seed, workers)


def render_set_photographs(name: str, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
    return render_photographs(find_rendering(name), settings, seed)


@pytest.fixture(scope="module", params=SETS)
def rendered(request: pytest.FixtureRequest) -> Case:
    name = request.param
    files = list(render_set(name, SMALL, SEED))
    paths = [path for path, _ in files]
    assert len(set(paths)) == len(paths)
    return name, dict(files), list(render_set_photographs(name, SMALL, SEED))


@pytest.fixture(scope="module")
def real_iad() -> dict[str, bytes]:
    return dict(render_set("real_iad", SMALL, SEED))


def test_paths_follow_the_official_layout(rendered: Case) -> None:
    name, files, _ = rendered
    unexpected = [path for path in files if not re.fullmatch(OFFICIAL[name], path)]
    assert unexpected == []


def test_images_decode_and_have_limited_size(rendered: Case) -> None:
    name, files, _ = rendered
    for path, data in files.items():
        if path.endswith((".csv", ".json")):
            continue
        width, height = Image.open(io.BytesIO(data)).size
        # A sample of SDD is a third of the image.
        assert max(width, height / (3 if name == "sdd" else 1)) <= SMALL.size, path


def test_labels_are_official_and_categories_mixed(rendered: Case) -> None:
    name, _, shots = rendered
    known = {label.casefold() for label in list_labels(name)}
    assert {label.casefold() for shot in shots for label in shot.labels} <= known
    for category in {shot.category for shot in shots}:
        assert {bool(shot.labels) for shot in shots if shot.category == category} == {True, False}


def test_mask_covers_exactly_the_changed_pixels(rendered: Case) -> None:
    _, _, shots = rendered
    for shot in shots:
        change = np.abs(shot.pixels.astype(int) - shot.normal.astype(int))
        change = change.max(2) if change.ndim == 3 else change
        assert bool(shot.labels) == bool(shot.mask.any()), shot.path
        if not shot.labels:
            assert not change.any()
            continue
        assert set(np.unique(shot.mask)) <= set(range(len(shot.labels) + 1))
        near = cv2.dilate((shot.mask > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (change[~near] > VISIBLE + 1).sum() <= 2e-4 * change.size, shot.path
        if not shot.path.startswith(("kos26", "kos34")):
            # Closing gaps adds only a small part of the mask; the other pixels changed.
            assert (change[shot.mask > 0] >= VISIBLE - 1).mean() > 0.5, shot.path


def test_mask_files_match_rendered_masks(rendered: Case) -> None:
    name, files, shots = rendered
    found = {path for path in files if re.search(r"_mask\.png|/Masks/|_label\.bmp|/NG/.*\.png", path)}
    wanted = set()
    for shot in shots:
        path = {
            "visa": shot.path.replace("/Images/", "/Masks/").replace(".JPG", ".png"),
            "sdd": shot.path.replace(".jpg", "_label.bmp"),
            "real_iad": shot.path.replace(".jpg", ".png"),
        }.get(name, re.sub(r"/test/(\w+)/(\d+)\.png", r"/ground_truth/\1/\2_mask.png", shot.path))
        if not shot.labels and name != "sdd":
            assert path not in found
            continue
        wanted.add(path)
        mask = np.asarray(Image.open(io.BytesIO(files[path])))
        assert np.array_equal(mask > 0, shot.mask > 0), path
    assert found == wanted


def test_real_iad_json_labels_visible_defects(real_iad: dict[str, bytes]) -> None:
    hidden = 0
    for path in [path for path in real_iad if path.endswith(".json")]:
        record = json.loads(real_iad[path])
        category = path.split("/")[1].removesuffix(".json")
        rows = record["train"] + record["test"]
        root = f"realiad_1024/{category}/"
        images = [root + row["image_path"] for row in rows]
        assert sorted(images) == sorted(p for p in real_iad if p.startswith(root) and p.endswith(".jpg"))
        assert {row["anomaly_class"] for row in record["train"]} == {"OK"}
        assert record["meta"] == {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": False}
        for row in rows:
            if row["anomaly_class"] == "OK":
                assert row["mask_path"] is None
                hidden += row["image_path"].startswith("NG/")
            else:
                assert root + row["mask_path"] in real_iad
                assert f"NG/{row['anomaly_class']}/" in row["image_path"]
    assert hidden > 0


def test_defects_are_visible_from_some_camera(real_iad: dict[str, bytes]) -> None:
    parts = {path.rsplit("/", 1)[0] for path in real_iad if "/NG/" in path}
    assert parts == {path.rsplit("/", 1)[0] for path in real_iad if path.endswith(".png")}


@pytest.mark.parametrize(("categories", "parts", "views"), [(2, 4, 1), (3, 5, 2), (30, 4, 1)])
def test_counts_follow_the_settings(categories: int, parts: int, views: int) -> None:
    settings = Synthetic(size=128, categories=categories, parts=parts, views=views)
    shots = list(render_set_photographs("real_iad", settings, SEED))
    assert len({shot.category for shot in shots}) == categories
    assert set(Counter(shot.category for shot in shots).values()) == {parts * views}
    anomalous = {shot.path.rsplit("/", 1)[0] for shot in shots if "/NG/" in shot.path}
    assert len(anomalous) == categories * (parts // 2)


def test_counts_of_evaluation_sets() -> None:
    settings = Synthetic(size=128, categories=2, parts=5, views=1)
    for name in ("mvtec_ad", "visa", "mpdd", "dtd"):
        counts = Counter(shot.category for shot in render_set_photographs(name, settings, SEED))
        assert set(counts.values()) == {5}
    assert len({shot.path.split("/")[0] for shot in render_set_photographs("sdd", settings, SEED)}) == 5


def test_training_and_evaluation_categories_overlap(real_iad: dict[str, bytes]) -> None:
    evaluated = {
        shot.category.strip("0123456789") for n in ("mvtec_ad", "visa") for shot in render_set_photographs(n, SMALL, 1)
    }
    training = {path.split("/")[1].removesuffix(".json") for path in real_iad if path.endswith(".json")}
    assert len({name for name in training if name.strip("0123456789") in evaluated}) >= 2


def test_visa_class_ids_and_combined_types() -> None:
    files = dict(render_set("visa", SMALL, SEED))
    rows = list(csv.DictReader(io.StringIO(files["split_csv/1cls.csv"].decode())))
    types = {
        row["image"]: row["label"]
        for name in {row["object"] for row in rows}
        for row in csv.DictReader(io.StringIO(files[f"{name}/image_anno.csv"].decode()))
    }
    assert set(types) == {row["image"] for row in rows} == {path for path in files if path.endswith(".JPG")}
    assert {(row["split"], row["label"]) for row in rows} == {
        ("train", "normal"),
        ("test", "normal"),
        ("test", "anomaly"),
    }
    several = 0
    for row in rows:
        if row["label"] == "normal":
            assert types[row["image"]] == "normal"
            assert row["mask"] == ""
            continue
        labels = types[row["image"]].split(",")
        several += len(labels) > 1
        official = visa.CLASS_IDS[row["object"]]
        ids = set(np.unique(np.asarray(Image.open(io.BytesIO(files[row["mask"]]))))) - {0}
        assert ids <= {official.index(label) + 1 for label in labels}
        assert len(labels) > 1 or len(ids) == 1
    assert several >= 1


def test_mvtec_has_a_grey_category() -> None:
    modes = {
        path.split("/")[0]: Image.open(io.BytesIO(data)).mode
        for path, data in render_set("mvtec_ad", SMALL, SEED)
        if "/train/" in path
    }
    assert set(modes.values()) == {"L", "RGB"}


def test_sdd_published_list_and_repeated_images() -> None:
    files = dict(render_set("sdd", SMALL, SEED))
    listed = {name for name, label in sdd.published_thirds().items() if label == "anomalous"}
    twos = 0
    for path, data in files.items():
        if not path.endswith(".bmp"):
            continue
        image = Image.open(io.BytesIO(data))
        mask = np.asarray(image)
        stem = path.removesuffix("_label.bmp").replace("/", "_")
        height = mask.shape[0]
        harmed = {f"{stem}_{k}" for k in range(3) if mask[k * height // 3 : (k + 1) * height // 3].any()}
        assert harmed == {name for name in listed if name.startswith(stem)}
        assert image.mode == ("P" if harmed else "L")
        assert set(np.unique(mask)) <= {0, 1, 2}
        twos += bool((mask == 2).any())
        assert 2.4 < mask.shape[0] / mask.shape[1] < 2.6
    assert twos == 1
    assert files["kos01/Part5.jpg"] == files["kos26/Part5.jpg"]
    assert files["kos01/Part5_label.bmp"] != files["kos26/Part5_label.bmp"]


def _contrast_to_noise(shot: RenderedPhoto, side: int | None) -> float:
    pair = [
        image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (shot.pixels, shot.normal)
    ]
    here: np.ndarray = pair[0].astype(np.float32)
    sound: np.ndarray = pair[1].astype(np.float32)
    around: np.ndarray = cv2.dilate((shot.mask > 0).astype(np.uint8), np.ones((25, 25), np.uint8))
    share = float((shot.mask > 0).sum() / around.sum())
    if side:
        here, sound = (np.asarray(cv2.resize(i, (side, side), interpolation=cv2.INTER_AREA)) for i in (here, sound))
        around = cv2.resize(around, (side, side), interpolation=cv2.INTER_NEAREST)
    texture = (sound - cv2.GaussianBlur(sound, (0, 0), 2))[around > 0].std()
    return float(np.quantile(np.abs(here - sound)[around > 0], 1 - share / 2) / texture)


@pytest.mark.slow
def test_defects_range_from_hidden_to_obvious() -> None:
    settings = Synthetic(size=512, categories=7, parts=16, views=1)
    shots = [shot for shot in render_set_photographs("real_iad", settings, SEED) if shot.labels]
    full = np.array([_contrast_to_noise(shot, None) for shot in shots])
    small = np.array([_contrast_to_noise(shot, 128) for shot in shots])
    assert ((full > 2.5) & (small < 1)).any()
    assert (full < 1.5).any(), "no hard defect"
    assert (full > 5).any(), "no obvious defect"


def _digest(benchmarks: list[str]) -> dict[str, str]:
    settings = Synthetic(size=128, categories=3, parts=4, views=2)
    digests = {}
    for name in benchmarks:
        total = hashlib.sha256()
        for path, data in render_set(name, settings, SEED):
            total.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
        digests[name] = total.hexdigest()
    return digests


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_bytes_are_reproducible_across_processes(hash_seed: str) -> None:
    script = f"import json, {__name__} as t; print(json.dumps(t._digest(list(reversed(t.SETS)))))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == _digest(list(SETS))


@pytest.mark.parametrize("name", SETS)
def test_seed_changes_images_but_not_layout(name: str) -> None:
    settings = Synthetic(size=128, categories=2, parts=4, views=1)
    first, second = (list(render_set_photographs(name, settings, seed)) for seed in (1, 2))
    assert [shot.path for shot in first] == [shot.path for shot in second]
    for one, other in zip(first, second, strict=True):
        assert one.pixels.shape != other.pixels.shape or not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", SETS)
def test_threads_do_not_change_the_files(name: str) -> None:
    settings = Synthetic(size=128, categories=3, parts=4, views=1)
    alone = list(render_set(name, settings, SEED))
    assert list(render_set(name, settings, SEED, workers=3)) == alone


def test_unknown_benchmark_is_rejected() -> None:
    with pytest.raises(IndusCotError, match=r"'folder'.*mvtec_ad.*real_iad"):
        list(render_set("folder", SMALL, SEED))
