"""End-to-end tests of `pull`: every layout with its peculiarities, and unchanged published bytes."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from cot_builder.benchmarks.labels import map_label
from cot_builder.benchmarks.sdd import published_thirds
from schemas.geometry import to_pixels
from tests.helpers.layouts import (
    Files,
    PulledSet,
    csv_bytes,
    mask,
    mvtec_files,
    picture,
    pull_set,
    real_iad_files,
    sdd_files,
    visa_files,
    write_folder,
    write_tar,
    write_zip,
)
from tests.helpers.paths import REAL

LAYOUTS = {
    "mvtec_ad": mvtec_files(),
    "mpdd": mvtec_files("tubes", "anomalous"),
    "dtd": mvtec_files("Woven_001", "bad"),
    "visa": visa_files(),
    "real_iad": real_iad_files(),
    "sdd": sdd_files(),
    "folder": mvtec_files("flange", "scratch"),
}


def read_labels(pulled: PulledSet) -> dict[str, int]:
    counts: dict[str, int] = pulled.counts["by_split_label"]
    return counts


@pytest.mark.parametrize("benchmark", list(LAYOUTS))
def test_shards_contain_the_published_bytes(tmp_path: Path, benchmark: str) -> None:
    files = LAYOUTS[benchmark]
    pulled = pull_set(tmp_path / "work", benchmark, write_tar(tmp_path / "set.tar", files))
    assert pulled.samples.height == pulled.counts["samples"] > 0
    assert pulled.left_out == []
    inside = {path.removeprefix("realiad_1024/"): data for path, data in files.items()}
    for row in pulled.samples.join(pulled.supervision, on="sample_id").iter_rows(named=True):
        data = pulled.stored(row["shard"], row["row"])
        assert data == inside[row["source_path"]]
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["label"] not in row["sample_id"] + row["part_id"] + row["shard"]
        if row["mask_shard"]:
            assert pulled.stored(row["mask_shard"], row["mask_row"]) in inside.values()
            assert row["area_fraction"] > 0


@pytest.mark.parametrize("benchmark", list(LAYOUTS))
def test_archive_format_does_not_change_tables(tmp_path: Path, benchmark: str) -> None:
    files = LAYOUTS[benchmark]
    sources = [
        write_folder(tmp_path / "plain", files),
        write_tar(tmp_path / "reversed.tar.xz", dict(reversed(files.items()))),
        write_zip(tmp_path / "set.zip", {f"deep/er/{name}": data for name, data in files.items()}),
    ]
    found = []
    for number, source in enumerate(sources):
        pulled = pull_set(tmp_path / str(number), benchmark, source)
        places = ["shard", "row", "mask_shard", "mask_row"]
        joined = pulled.samples.join(pulled.supervision, on="sample_id").drop(places).sort("sample_id")
        found.append((joined.to_dicts(), pulled.counts["content_sha256"]))
    assert found[0] == found[1] == found[2]


def test_mvtec(tmp_path: Path) -> None:
    pulled = pull_set(tmp_path, "mvtec_ad", write_folder(tmp_path / "bottle", _drop_folder(mvtec_files(), "bottle/")))
    assert read_labels(pulled) == {"test anomalous": 2, "test normal": 1, "train normal": 2}
    two = pulled.row("bottle/test/contamination/001.png")
    assert (two["category"], two["view"], two["raw_type"]) == ("bottle", "default", "contamination")
    assert two["defect_type"] == map_label("mvtec_ad", "contamination")
    assert [to_pixels(tuple(box), 64, 48) for box in two["boxes"]] == [(32, 0, 64, 48), (0, 0, 8, 8)]
    assert two["area_fraction"] == pytest.approx((32 * 48 + 64) / (64 * 48))
    assert (two["width"], two["height"], two["channels"], two["image_format"]) == (64, 48, 3, "PNG")
    assert two["licence"] == "CC BY-NC-SA 4.0"
    assert pulled.samples["part_id"].n_unique() == 5


def _drop_folder(files: Files, prefix: str) -> Files:
    return {name.removeprefix(prefix): data for name, data in files.items()}


def test_single_channel_and_other_formats(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    images = {
        "grey.png": picture(1, grey=True),
        "grey.jpg": picture(1, suffix=".jpg", grey=True),
        "grey.bmp": picture(1, suffix=".bmp", grey=True),
        "alpha.png": cv2.imencode(".png", noise)[1].tobytes(),
        "deep.png": cv2.imencode(".png", noise[..., :3].astype(np.uint16) * 257)[1].tobytes(),
        "colour.tif": picture(1, suffix=".tiff"),
        "colour.webp": picture(1, suffix=".webp"),
        "colour.bmp": picture(1, suffix=".bmp"),
        "restarts.jpg": cv2.imencode(".jpg", noise[..., :3], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes(),
        "trailing.jpg": picture(1, suffix=".jpg") + b"\xff\x37 what a camera puts behind the picture",
        "progressive.jpg": cv2.imencode(".jpg", noise[..., :3], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    }
    files = {f"flange/train/good/{name}": data for name, data in images.items()}
    pulled = pull_set(tmp_path, "folder", write_folder(tmp_path / "parts", files))
    found = {
        Path(row["source_path"]).name: (row["image_format"], row["channels"])
        for row in pulled.samples.join(pulled.supervision, on="sample_id").iter_rows(named=True)
    }
    assert found == {
        "grey.png": ("PNG", 1),
        "grey.jpg": ("JPEG", 1),
        "grey.bmp": ("BMP", 1),
        "alpha.png": ("PNG", 4),
        "deep.png": ("PNG", 3),
        "colour.tif": ("TIFF", 3),
        "colour.webp": ("WEBP", 3),
        "colour.bmp": ("BMP", 3),
        "restarts.jpg": ("JPEG", 3),
        "trailing.jpg": ("JPEG", 3),
        "progressive.jpg": ("JPEG", 3),
    }
    assert set(pulled.samples["width"]) == {64}
    assert set(pulled.samples["height"]) == {48}


def test_real_iad(tmp_path: Path) -> None:
    pulled = pull_set(tmp_path, "real_iad", write_folder(tmp_path / "iad", real_iad_files()))
    assert read_labels(pulled) == {"test anomalous": 1, "test normal": 3, "train normal": 2}
    assert pulled.samples["part_id"].n_unique() == 3
    assert set(pulled.samples["view"]) == {"C1", "C2"}
    assert "NG" not in "".join(pulled.samples["part_id"])


def test_real_iad_resolution(tmp_path: Path) -> None:
    both = real_iad_files() | {n: d for n, d in real_iad_files(folder="realiad_256").items() if "256" in n}
    both = {n: picture(99, 32, 24, ".jpg") if "256" in n and n.endswith("jpg") else d for n, d in both.items()}
    source = write_tar(tmp_path / "iad.tar", both)
    assert set(pull_set(tmp_path / "a", "real_iad", source).samples["width"]) == {64}
    assert set(pull_set(tmp_path / "b", "real_iad", source, resolution="256").samples["width"]) == {32}


def test_visa(tmp_path: Path) -> None:
    pulled = pull_set(tmp_path, "visa", write_folder(tmp_path / "VisA", visa_files()))
    assert read_labels(pulled) == {"test anomalous": 2, "test normal": 1, "train normal": 1}
    both = pulled.row("candle/Data/Images/Anomaly/001.JPG")
    assert both["raw_type"] == "Scratches,Bent"
    assert [to_pixels(tuple(box), 64, 48) for box in both["boxes"]] == [(0, 0, 16, 12)]


def test_sdd_thirds(tmp_path: Path) -> None:
    pulled = pull_set(tmp_path, "sdd", write_folder(tmp_path / "KolektorSDD", sdd_files()))
    thirds = [pulled.row("kos15/Part3.jpg", number) for number in range(3)]
    assert [third["region"] for third in thirds] == [[0, 0, 50, 40], [0, 40, 50, 80], [0, 80, 50, 121]]
    assert [third["label"] for third in thirds] == ["normal", "anomalous", "anomalous"]
    assert [third["split"] for third in thirds][1:] == ["test", "test"]
    # For files not in the published list, a third without a defect is used for training, one with a defect is not.
    assert not {"kos01_Part1_1", "kos26_Part1_1"} & published_thirds().keys()
    assert [pulled.row(f"{part}/Part1.jpg", 1)["split"] for part in ("kos01", "kos26")] == ["train", "test"]
    assert [(third["width"], third["height"]) for third in thirds] == [(50, 40), (50, 40), (50, 41)]
    assert [to_pixels(tuple(third["boxes"][0]), 50, third["height"]) for third in thirds[1:]] == [
        (10, 36, 20, 40),
        (10, 0, 20, 4),
    ]
    assert len({(third["shard"], third["row"]) for third in thirds}) == 1
    assert pulled.counts["images"] == 4
    assert pulled.counts["samples"] == 12


def test_sdd_duplicates_are_one_part(tmp_path: Path) -> None:
    pulled = pull_set(tmp_path, "sdd", write_folder(tmp_path / "KolektorSDD", sdd_files()))
    assert pulled.counts["duplicates"] == {"groups": 1, "images": 2, "groups_with_conflicting_labels": 1}
    pairs = pl.read_csv(pulled.folder / "duplicates.csv")
    assert set(pairs["path"]) == {"kos01/Part1.jpg", "kos26/Part1.jpg"}
    parts = {
        row["source_path"].partition("/")[0]: row["part_id"]
        for row in pulled.samples.join(pulled.supervision, on="sample_id").iter_rows(named=True)
    }
    assert parts["kos01"] == parts["kos26"]
    assert len({parts["kos01"], parts["kos05"], parts["kos15"]}) == 3


def test_sdd_mask_and_list_conflicts(tmp_path: Path) -> None:
    """kos15_Part3 has its published defect in other thirds than the mask of this test."""
    files = {
        "kos15/Part3.jpg": picture(1, 50, 121, ".jpg", grey=True),
        "kos15/Part3_label.bmp": mask((0, 0, 5, 5), width=50, height=121, suffix=".bmp"),
    }
    pulled = pull_set(tmp_path, "sdd", write_folder(tmp_path / "sdd", files))
    assert {row["item"]: row["detail"] for row in pulled.warnings} == {
        "kos15/Part3.jpg#0": "anomalous by its mask, normal by the list",
        "kos15/Part3.jpg#1": "normal by its mask, anomalous by the list",
        "kos15/Part3.jpg#2": "normal by its mask, anomalous by the list",
    }


def make_table_files() -> tuple[Files, list[dict[str, str]]]:
    files = {
        "a/one.png": picture(1),
        "a/two.jpg": picture(2, suffix=".jpg"),
        "a/three.png": picture(3),
        "gt/two.png": mask((8, 12, 24, 24)),
    }
    rows = [
        {"image": "a/one.png", "label": "good", "mask": "", "boxes": "", "type": "", "view": "top", "part": "7"},
        {
            "image": "a/two.jpg",
            "label": "NG",
            "mask": "gt/two.png",
            "boxes": "",
            "type": "scratch",
            "view": "",
            "part": "7",
        },
        {
            "image": "./a/three.png",
            "label": "1",
            "mask": "",
            "boxes": "0 0 32 24; 32 24 64 48",
            "type": "",
            "view": "",
            "part": "",
        },
    ]
    return files, rows


@pytest.mark.parametrize("form", ["comma", "semicolon", "jsonl"])
@pytest.mark.parametrize("named", [True, False])
def test_own_images_with_a_table(tmp_path: Path, form: str, named: bool) -> None:
    files, rows = make_table_files()
    folder = write_folder(tmp_path / "parts", files)
    if form == "jsonl":
        boxes = [[0, 0, 32, 24], [32, 24, 64, 48]]
        lines = [{key: value for key, value in row.items() if value} for row in rows]
        lines = [line | ({"boxes": boxes} if "boxes" in line else {}) for line in lines]  # type: ignore[dict-item]
        table = folder / "parts.jsonl"
        table.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    else:
        table = folder / "parts.csv"
        table.write_bytes(csv_bytes(rows, ";" if form == "semicolon" else ","))
    pulled = pull_set(tmp_path / "work", "folder", table if named else folder, role="train")
    assert read_labels(pulled) == {"train anomalous": 2, "train normal": 1}
    one, two, three = (pulled.row(f"a/{name}") for name in ("one.png", "two.jpg", "three.png"))
    assert (one["category"], one["view"], one["label"]) == ("a", "top", "normal")
    assert one["part_id"] == two["part_id"] != three["part_id"]
    assert (two["raw_type"], two["defect_type"], two["view"]) == ("scratch", "scratch", "default")
    assert [to_pixels(tuple(box), 64, 48) for box in two["boxes"]] == [(8, 12, 24, 24)]
    assert [to_pixels(tuple(box), 64, 48) for box in three["boxes"]] == [(0, 0, 32, 24), (32, 24, 64, 48)]
    assert three["area_fraction"] == pytest.approx(0.5)
    assert three["defect_type"] == "unspecified"


@pytest.mark.parametrize(
    ("folders", "category"),
    [
        (("bad", "good", "good"), "parts"),
        (("OK-Teile", "NG-Teile", "OK-Teile"), "parts"),
        (("scratch", "good", "hole"), "parts"),
        (("one", "two", "two"), "parts"),  # all images of `one` are defective, all of `two` are normal
        (("scratch", "scratch", "scratch"), "parts"),
        (("flange_1", "flange_1", "flange_2"), None),
        (("flange", "flange", "flange"), None),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_label_folder_is_not_a_category(
    tmp_path: Path, folders: tuple[str, ...], category: str | None, deep: bool
) -> None:
    """Test with a table in the folder ``parts``, or in each of the folders."""
    images = [f"{folder}/{number}.png" for number, folder in enumerate(folders)]
    rows = [{"image": image, "label": label} for image, label in zip(images, ("bad", "good", "ok"), strict=True)]
    files = {image: picture(number) for number, image in enumerate(images)}
    if deep:
        for folder in set(folders):
            own = [row | {"image": Path(row["image"]).name} for row in rows if row["image"].startswith(f"{folder}/")]
            files[f"{folder}/list.csv"] = csv_bytes(own)
    else:
        files["list.csv"] = csv_bytes(rows)
    pulled = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert [pulled.row(image)["category"] for image in images] == [category or folder for folder in folders]
    assert bool(category) == any("tell the label" in row["reason"] for row in pulled.warnings)
    # Categories by folder must be requested explicitly.
    if not deep:
        files["list.csv"] = csv_bytes([row | {"category": Path(row["image"]).parent.name} for row in rows])
        named = pull_set(tmp_path / "named", "folder", write_folder(tmp_path / "again", files))
        assert [named.row(image)["category"] for image in images] == list(folders)


def test_extra_columns_are_reported_once(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.png", "label": "ok", "remark": "a\u2028b\x85c", "plant": "Ulm"} for n in range(3)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    files = {f"{n}.png": picture(n) for n in range(3)} | {"parts.jsonl": text.encode()}
    pulled = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert pulled.samples.height == 3
    assert [(row["reason"], row["item"]) for row in pulled.warnings] == [
        ("column not read", "parts.jsonl: plant"),
        ("column not read", "parts.jsonl: remark"),
    ]


def test_own_images_in_an_archive_with_splits(tmp_path: Path) -> None:
    files, rows = make_table_files()
    for row, split in zip(rows, ("train", "test", "test"), strict=True):
        row |= {"split": split, "category": "Flansch groß"}
    files = {f"set/{name}": data for name, data in files.items()} | {"set/liste.csv": csv_bytes(rows)}
    pulled = pull_set(tmp_path / "work", "folder", write_zip(tmp_path / "parts.zip", files))
    assert read_labels(pulled) == {"test anomalous": 2, "train normal": 1}
    assert set(pulled.samples["category"]) == {"Flansch groß"}


def test_own_image_folders_without_masks(tmp_path: Path) -> None:
    files = {name: data for name, data in mvtec_files("flange", "scratch").items() if "ground_truth" not in name}
    pulled = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files), strict=True)
    row = pulled.row("flange/test/scratch/000.png")
    assert (row["boxes"], row["area_fraction"], row["mask_shard"]) == ([], None, None)
    assert row["defect_type"] == "scratch"


def test_jpeg_mask_noise_is_ignored(tmp_path: Path) -> None:
    marked = np.zeros((96, 128), np.uint8)
    marked[21:51, 19:60] = 255
    encoded = cv2.imencode(".jpg", marked, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    assert np.count_nonzero(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))) > np.count_nonzero(marked)
    rows = [{"image": "a.png", "label": "bad", "mask": "a.jpg"}]
    files = {"a.png": picture(1, 128, 96), "a.jpg": encoded.tobytes(), "parts.csv": csv_bytes(rows)}
    row = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files)).row("a.png")
    assert [to_pixels(tuple(box), 128, 96) for box in row["boxes"]] == [(19, 21, 60, 51)]
    assert row["area_fraction"] == pytest.approx((marked > 0).mean(), rel=0.02)


def test_partial_copy_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulled = pull_set(tmp_path / "work", "mvtec_ad", write_folder(tmp_path / "mvtec", mvtec_files()))
    assert (
        "partial copy, 0.1 % of MVTec AD: train normal 2 of 3629, test normal 1 of 467, test anomalous 2 of 1258; "
        "1 of 15 categories" in capsys.readouterr().err
    )
    assert pulled.counts["published"] == {"train normal": 3629, "test normal": 467, "test anomalous": 1258}
    assert pulled.counts["by_category"] == {"bottle": 5}
    assert pulled.counts["benchmark"]["licence"] == "CC BY-NC-SA 4.0"
    assert "Bergmann" in pulled.counts["benchmark"]["citation"]


def test_archive_hash_is_recorded(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "MPDD.zip", mvtec_files("tubes", "anomalous"))
    right = hashlib.sha256(source.read_bytes()).hexdigest()
    assert pull_set(tmp_path / "a", "mpdd", source).counts["archive_sha256"] == {"MPDD.zip": right}
    assert pull_set(tmp_path / "b", "mpdd", source, sha256=right).counts["archive_sha256"] == {"MPDD.zip": right}


def test_second_pull_gives_equal_files(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "set.tar", mvtec_files())
    first = pull_set(tmp_path / "a", "mvtec_ad", source).folder
    second = pull_set(tmp_path / "b", "mvtec_ad", source).folder
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        if name != "manifest.json":
            assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("benchmark", list(LAYOUTS)[:-1])
def test_synthetic_sets_pull_cleanly(tmp_path: Path, benchmark: str) -> None:
    from cot_builder.params import load_params
    from cot_builder.stages.pull import pull
    from cot_builder.storage.workspace import Workspace
    from tests.helpers.paths import ROOT

    small = ["synthetic.size=128", "synthetic.categories=2", "synthetic.parts=4", "synthetic.views=2"]
    workspace = Workspace(tmp_path)
    pull(benchmark, load_params("default", small, ROOT), workspace)
    pulled = PulledSet(workspace, benchmark)
    assert pulled.left_out == []
    assert pulled.warnings == []
    defective = pulled.supervision.filter(pl.col("label") == "anomalous")
    assert defective.height > 0
    assert (defective["boxes"].list.len() > 0).all()


@pytest.mark.parametrize(
    ("benchmark", "normal", "anomalous"),
    [("mvtec_ad", 10, 12), ("mpdd", 12, 12), ("visa", 8, 10), ("dtd", 18, 29), ("real_iad", 58, 57), ("sdd", 34, 8)],
)
def test_real_photographs(tmp_path: Path, benchmark: str, normal: int, anomalous: int) -> None:
    """SDD has 14 photographs, that is 42 thirds; one defect crosses a cut."""
    if not (REAL / benchmark).exists():
        pytest.skip(f"no real data at {REAL / benchmark}; set INDUS_COT_REAL_DATA to have this checked")
    pulled = pull_set(tmp_path, benchmark, REAL / benchmark)
    counts = pulled.supervision["label"].value_counts()
    assert dict(counts.iter_rows()) == {"normal": normal, "anomalous": anomalous}
    assert pulled.left_out == []
    assert {row["reason"] for row in pulled.warnings} <= {"unknown category"}
    defective = pulled.supervision.filter(pl.col("label") == "anomalous")
    assert (defective["boxes"].list.len() > 0).all()
    for row in pulled.samples.sample(4, seed=0).iter_rows(named=True):
        pixels = cv2.imdecode(np.frombuffer(pulled.stored(row["shard"], row["row"]), np.uint8), cv2.IMREAD_UNCHANGED)
        whole = row["region"] or (0, 0, row["width"], row["height"])
        assert pixels.shape[1] == whole[2]
        assert pixels.shape[0] >= whole[3]
        assert (1 if pixels.ndim == 2 else pixels.shape[2]) == row["channels"]
