"""Tests of the layouts and quirks of the data sets, against published files if available."""

import csv
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_builder.benchmarks import dtd, mvtec_ad, real_iad, sdd, visa
from cot_builder.benchmarks.benchmark import Listing
from cot_builder.benchmarks.mask import read_mask
from cot_builder.benchmarks.table import load_benchmarks
from schemas.geometry import to_pixels
from tests.helpers.layouts import mask, mvtec_files, real_iad_files, sdd_files, visa_files
from tests.helpers.paths import REAL


def require_real_data(*parts: str) -> Path:
    path = REAL.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}; set INDUS_COT_REAL_DATA to run this test")
    return path


@pytest.mark.parametrize("prefix", ["", "mvtec_anomaly_detection/", "some/where/else/"])
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mvtec_ad", mvtec_files()),
        ("visa", visa_files()),
        ("real_iad", real_iad_files()),
        ("sdd", sdd_files()),
        ("mpdd", mvtec_files("tubes", "anomalous")),
        ("dtd", mvtec_files("Woven_001", "bad")),
    ],
)
def test_folders_above_a_layout_are_ignored(name: str, files: dict[str, bytes], prefix: str) -> None:
    place = load_benchmarks()[name].classify_path
    for path in files:
        found = place(prefix + path)
        assert found is not None
        assert found.key == path.removeprefix("realiad_1024/").removeprefix("realiad_jsons/")
        is_record = path.endswith((".csv", ".json"))
        is_mask = any(part in path.lower() for part in ("mask", "_label", "ng_hs_c1_20231021.png"))
        assert found.role == ("record" if is_record else "mask" if is_mask else "image")


@given(st.text(max_size=40))
def test_layouts_accept_any_path(path: str) -> None:
    for module in load_benchmarks().values():
        found = module.classify_path(path)
        assert found is None or found.key in path or found.key.endswith(path.rpartition("/")[2])


def test_real_iad_label_is_from_the_json() -> None:
    files = real_iad_files()
    entries = list(real_iad.entries(Listing((), (), {"toy.json": files["realiad_jsons/toy.json"]})))
    hidden = [entry for entry in entries if "/NG/" in entry.image and entry.label == "normal"]
    assert [entry.view for entry in hidden] == ["C2"]
    assert hidden[0].mask is None
    assert hidden[0].raw_type is None


def test_real_iad_parts_are_whole_folders() -> None:
    """OK/S0001 and NG/HS/S0001 are two parts; all views in a folder are one part."""
    files = real_iad_files()
    entries = list(real_iad.entries(Listing((), (), {"toy.json": files["realiad_jsons/toy.json"]})))
    parts: dict[str | None, set[str]] = {}
    for entry in entries:
        parts.setdefault(entry.part, set()).add(entry.view)
    assert parts == {
        "toy/OK/S0001": {"C1", "C2"},
        "toy/OK/S0002": {"C1", "C2"},
        "toy/NG/HS/S0001": {"C1", "C2"},
    }


def test_real_iad_reads_one_resolution_and_one_protocol() -> None:
    image = "toy/OK/S0001/toy_0001_OK_C1_2023.jpg"
    assert real_iad.classify_path(f"realiad_1024/{image}", "1024") == ("image", image)
    assert real_iad.classify_path(f"realiad_256/{image}", "1024") == ("other", image)
    assert real_iad.classify_path(f"{image}", "256") == ("image", image)
    assert real_iad.classify_path("realiad_jsons/toy.json") == ("record", "toy.json")
    assert real_iad.classify_path("realiad_jsons/realiad_jsons_sv/toy.json") is None
    assert real_iad.classify_path("realiad_jsons_fuiad_0.1/toy.json") is None


def test_real_iad_official_counts() -> None:
    archive = require_real_data("official", "realiad_jsons.tar.xz")
    records = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if place := real_iad.classify_path(member.name):
                file = tar.extractfile(member)
                assert file is not None
                records[place.key] = file.read()
    assert sorted(name.removesuffix(".json") for name in records) == sorted(real_iad.BENCHMARK.categories)
    counts: Counter[tuple[str, str | None]] = Counter()
    under_ng = 0
    parts: set[str | None] = set()
    for entry in real_iad.entries(Listing((), (), records)):
        counts[entry.split, entry.label] += 1
        under_ng += "/NG/" in entry.image and entry.label == "normal"
        parts.add(entry.part)
        assert real_iad.classify_path(f"realiad_1024/{entry.image}") == ("image", entry.image)
        assert (entry.mask is not None) == (entry.label == "anomalous")
    assert counts == dict(real_iad.BENCHMARK.published)
    assert counts == {("train", "normal"): 36465, ("test", "normal"): 63256, ("test", "anomalous"): 51329}
    assert under_ng == 26881
    assert len(parts) == 30210


def test_visa_split_and_types_from_csv_files() -> None:
    files = visa_files()
    records = {name: data for name, data in files.items() if name.endswith(".csv")}
    entries = list(visa.entries(Listing(files.keys(), (), records)))
    assert [(entry.split, entry.label, entry.raw_type) for entry in entries] == [
        ("train", "normal", None),
        ("test", "normal", None),
        ("test", "anomalous", "Bent"),
        ("test", "anomalous", "Scratches,Bent"),
    ]


def test_visa_official_split() -> None:
    data = require_real_data("official", "visa_1cls.csv").read_bytes()
    entries = list(visa.entries(Listing((), (), {visa.SPLIT: data})))
    counts = Counter((entry.split, entry.label) for entry in entries)
    assert counts == dict(visa.BENCHMARK.published)
    assert counts == {("train", "normal"): 8659, ("test", "normal"): 962, ("test", "anomalous"): 1200}
    assert {entry.category for entry in entries} == set(visa.BENCHMARK.categories)
    for entry in entries:
        assert visa.classify_path(f"VisA_20220922/{entry.image}") == ("image", entry.image)
        assert entry.mask is None or visa.classify_path(entry.mask) == ("mask", entry.mask)


@pytest.mark.parametrize("name", ["mpdd", "dtd"])
def test_published_test_lists(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(require_real_data("official", "eval_lists", f"{name}.csv").read_text())))
    benchmark = load_benchmarks()[name].BENCHMARK
    places = [mvtec_ad.classify_path(row["path"]) for row in rows]
    images = [place.key for place in places if place and place.role == "image"]
    entries = list(mvtec_ad.entries(Listing(images, (), {})))
    assert Counter(entry.label for entry in entries) == Counter(row["label"] for row in rows)
    assert Counter(entry.label for entry in entries) == {
        "normal": benchmark.published["test", "normal"],
        "anomalous": benchmark.published["test", "anomalous"],
    }
    assert {entry.category for entry in entries} == set(benchmark.categories)


def test_mvtec_mask_names() -> None:
    images = [f"bottle/test/broken/{n}.png" for n in ("000", "001", "002_mask")]
    masks = ["bottle/ground_truth/broken/000_mask.png", "bottle/ground_truth/broken/001.bmp"]
    masks.append("bottle/ground_truth/broken/002_mask_mask.png")
    found = {entry.image: entry.mask for entry in mvtec_ad.entries(Listing(images, masks, {}))}
    assert list(found.values()) == masks


def test_dtd_masks_are_paired_by_order() -> None:
    images = [f"Woven_001/test/bad/{n:03d}.png" for n in (0, 1, 10)]
    renamed = [f"Woven_001/ground_truth/bad/defect{n}.png" for n in "acb"]
    found = [entry.mask for entry in dtd.entries(Listing(images, renamed, {}))]
    assert found == sorted(renamed)
    named = [image.replace("test", "ground_truth").replace(".png", "_mask.png") for image in images]
    assert [entry.mask for entry in dtd.entries(Listing(images, named, {}))] == named
    # If a mask is missing, pairing by order would be wrong: use the names.
    assert [entry.mask for entry in dtd.entries(Listing(images, named[1:], {}))] == named


def test_sdd_published_test_set() -> None:
    thirds = sdd.published_thirds()
    assert Counter(thirds.values()) == {"normal": 286, "anomalous": 54}
    published = sdd.BENCHMARK.published
    assert sum(published.values()) == 3 * 399
    assert published["test", "normal"] == -(-(3 * 399 - 54) // 4)


def test_sdd_list_is_the_official_one() -> None:
    rows = list(csv.DictReader(io.StringIO(require_real_data("official", "eval_lists", "sdd.csv").read_text())))
    assert sdd.published_thirds() == {Path(row["path"]).stem: row["label"] for row in rows}


def test_sdd_labels_of_real_masks() -> None:
    """Every third of the real masks has the label that the published list gives it."""
    paths = sorted(require_real_data("sdd").rglob("*_label.bmp"))
    listed = sdd.published_thirds()
    found = {}
    for path in paths:
        stem = f"{path.parent.name}_{path.name.removesuffix('_label.bmp')}"
        for band, region in enumerate(read_mask(path.read_bytes(), 3).bands):
            found[f"{stem}_{band}"] = "anomalous" if region.area_fraction else "normal"
    assert {name for name, label in found.items() if label == "anomalous"} == {
        name for name, label in listed.items() if label == "anomalous" and name in found
    }
    assert {"kos15_Part3_1", "kos15_Part3_2"} <= {name for name, label in found.items() if label == "anomalous"}


def test_mask_values_below_255_count() -> None:
    ids = read_mask(mask((8, 12, 24, 24), value=1))
    assert ids == read_mask(mask((8, 12, 24, 24), value=255))
    assert ids.bands[0].area_fraction == pytest.approx(16 * 12 / (64 * 48))


def test_mask_boxes_are_largest_first_without_specks() -> None:
    found = read_mask(mask((0, 0, 4, 4), (10, 10, 40, 40), (60, 40, 61, 41), (45, 0, 60, 12)))
    boxes = [to_pixels(box, 64, 48) for box in found.bands[0].boxes]
    assert boxes == [(10, 10, 40, 40), (45, 0, 60, 12), (0, 0, 4, 4)]
    assert found.bands[0].area_fraction == pytest.approx((900 + 180 + 16 + 1) / (64 * 48))
    # A single speck is the defect.
    assert read_mask(mask((60, 40, 61, 41))).bands[0].boxes


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 44), st.integers(1, 30), st.integers(1, 30)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 4),
)
def test_mask_areas_add_up_over_bands(rectangles: list[tuple[int, int, int, int]], bands: int) -> None:
    data = mask(*((x, y, min(x + w, 64), min(y + h, 48)) for x, y, w, h in rectangles))
    whole = read_mask(data).bands[0].area_fraction
    parts = [region.area_fraction for region in read_mask(data, bands).bands]
    rows = [(band + 1) * 48 // bands - band * 48 // bands for band in range(bands)]
    assert sum(part * count for part, count in zip(parts, rows, strict=True)) == pytest.approx(whole * 48)


def test_data_sets_state_licence_and_redistribution() -> None:
    for name, module in load_benchmarks().items():
        benchmark = module.BENCHMARK
        assert benchmark.name == name
        assert benchmark.licence
        assert benchmark.clause and benchmark.attribution
        assert (benchmark.redistribution == "allowed") == (name in ("visa", "mvtec_ad", "mpdd"))
        assert benchmark.citation or name == "folder"
        assert benchmark.sha256 is None or len(benchmark.sha256) == 64
