"""Tests of `pull` with wrong layouts, records and tables: errors are located, and valid data is pulled."""

import json
from pathlib import Path

import pytest

from schemas.errors import IndusCotError
from tests.helpers.layouts import (
    Files,
    assert_nothing_pulled,
    csv_bytes,
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


def test_sdd_image_without_mask(tmp_path: Path) -> None:
    files = {n: d for n, d in sdd_files().items() if n != "kos05/Part0_label.bmp"}
    pulled = pull_set(tmp_path, "sdd", write_folder(tmp_path / "sdd", files))
    assert {row["item"] for row in pulled.left_out} == {f"kos05/Part0.jpg#{band}" for band in range(3)}
    assert pulled.samples.height == 9


def test_mask_without_image(tmp_path: Path) -> None:
    files = {n: d for n, d in mvtec_files().items() if n != "bottle/test/contamination/001.png"}
    pulled = pull_set(tmp_path, "mvtec_ad", write_folder(tmp_path / "mvtec", files))
    assert [(row["reason"], row["item"]) for row in pulled.left_out] == [
        ("mask without an image", "bottle/ground_truth/contamination/001_mask.png")
    ]


def test_listed_and_absent_present_and_unlisted(tmp_path: Path) -> None:
    visa = visa_files()
    moved = "candle/Data/Images/Normal/0001.JPG"
    stray = "candle/Data/Images/Normal/9999.JPG"
    visa[stray] = visa.pop(moved)
    source = write_folder(tmp_path / "visa", visa)
    pulled = pull_set(tmp_path, "visa", source)
    assert {(row["reason"], row["item"]) for row in pulled.left_out} == {
        ("listed and absent", moved),
        ("present and unlisted", stray),
    }
    assert pulled.samples.height == 3
    with pytest.raises(IndusCotError, match="listed and absent"):
        pull_set(tmp_path / "strict", "visa", source, strict=True)


def test_images_outside_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = mvtec_files()
    strays = ["bottle/test/loose.png", "bottle/validation/good/000.png"]
    source = write_folder(tmp_path / "own", files | {name: picture(91) for name in strays} | {"readme.txt": b"-"})
    pulled = pull_set(tmp_path, "folder", source)
    assert [(row["reason"], row["item"]) for row in pulled.left_out] == [
        ("outside the layout", f"own/{name}") for name in strays
    ]
    assert "skipped 2 images whose paths do not match the layout" in "".join(capsys.readouterr()).replace("\n", " ")
    with pytest.raises(IndusCotError, match="outside the layout"):
        pull_set(tmp_path / "strict", "folder", source, strict=True)


def test_missing_category_is_one_line(tmp_path: Path) -> None:
    files = real_iad_files()
    files["realiad_jsons/usb.json"] = real_iad_files("usb")["realiad_jsons/usb.json"]
    pulled = pull_set(tmp_path, "real_iad", write_tar(tmp_path / "iad.tar", files))
    assert pulled.left_out == [{"reason": "category listed and absent", "item": "usb", "detail": "6 listed images"}]


def test_duplicate_image_path(tmp_path: Path) -> None:
    name = "bottle/train/good/000.png"
    first = write_folder(tmp_path / "one", mvtec_files())
    second = write_folder(tmp_path / "two", {name: picture(77)})
    pulled = pull_set(tmp_path, "mvtec_ad", [str(first), str(second)])
    assert [(row["reason"], row["item"]) for row in pulled.left_out] == [("present twice", name)]
    row = pulled.row(name)
    assert pulled.stored(row["shard"], row["row"]) == mvtec_files()[name]


def test_all_unknown_labels_are_listed(tmp_path: Path) -> None:
    files = mvtec_files() | {
        "bottle/test/wobble/000.png": picture(7),
        "bottle/test/wobble/001.png": picture(8),
        "bottle/test/gloom/000.png": picture(9),
    }
    with pytest.raises(
        IndusCotError, match=r"2 defect label\(s\).*'gloom' \(1 images\), 'wobble' \(2 images\)"
    ) as error:
        pull_set(tmp_path, "mvtec_ad", write_folder(tmp_path / "mvtec", files))
    assert "taxonomy.yaml" in str(error.value)
    assert_nothing_pulled(tmp_path)


def test_unknown_category_is_kept_with_warning(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "mvtec", mvtec_files() | mvtec_files("gearbox"))
    pulled = pull_set(tmp_path, "mvtec_ad", source)
    assert [(row["reason"], row["item"]) for row in pulled.warnings] == [("unknown category", "gearbox")]
    assert pulled.counts["by_category"] == {"bottle": 5, "gearbox": 5}
    with pytest.raises(IndusCotError, match="gearbox: unknown category"):
        pull_set(tmp_path / "strict", "mvtec_ad", source, strict=True)


@pytest.mark.parametrize(
    ("asked", "files", "looks_like"),
    [
        ("visa", mvtec_files(), "mvtec_ad"),
        ("mvtec_ad", visa_files(), "visa"),
        ("mvtec_ad", real_iad_files(), "real_iad"),
        ("real_iad", sdd_files(), "sdd"),
        ("sdd", mvtec_files("Woven_001", "bad"), "dtd"),
        ("visa", mvtec_files("tubes", "anomalous"), "mpdd"),
        ("visa", mvtec_files("gearbox"), "folder"),
        ("mvtec_ad", mvtec_files("tubes", "anomalous"), "mpdd"),
        ("folder", sdd_files(), "sdd"),
    ],
)
def test_wrong_layout_suggests_another(tmp_path: Path, asked: str, files: Files, looks_like: str) -> None:
    with pytest.raises(IndusCotError, match=rf"this looks like {looks_like}: set pull\.mine\.benchmark: {looks_like}$"):
        pull_set(tmp_path, asked, write_folder(tmp_path / "source", files))
    assert_nothing_pulled(tmp_path)


def test_unknown_layout_gives_an_example(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"for example 'source/pictures/a\.png'"):
        pull_set(tmp_path, "visa", write_folder(tmp_path / "source", {"pictures/a.png": picture(1)}))
    with pytest.raises(IndusCotError, match="contains no image"):
        pull_set(tmp_path, "visa", write_folder(tmp_path / "notes", {"a.txt": b"x"}))
    (tmp_path / "void").mkdir()
    with pytest.raises(IndusCotError, match="contains no file"):
        pull_set(tmp_path, "visa", tmp_path / "void")


def test_missing_label_records(tmp_path: Path) -> None:
    visa = {n: d for n, d in visa_files().items() if not n.startswith("split_csv")}
    with pytest.raises(IndusCotError, match=r"no split_csv/1cls\.csv in the source"):
        pull_set(tmp_path, "visa", write_folder(tmp_path / "visa", visa))
    iad = {n: d for n, d in real_iad_files().items() if not n.endswith(".json")}
    with pytest.raises(IndusCotError, match=r"no realiad_jsons/<category>\.json"):
        pull_set(tmp_path, "real_iad", write_folder(tmp_path / "iad", iad))
    with pytest.raises(IndusCotError, match=r"no realiad_1024, but another resolution; set pull\.<name>\.resolution"):
        pull_set(tmp_path, "real_iad", write_folder(tmp_path / "small", real_iad_files(folder="realiad_256")))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"{", "toy.json is not valid JSON"),
        (b'{"train": null, "test": []}', "toy.json: train is None instead of a list of rows"),
        (b'{"train": [{"category": "toy"}], "test": []}', r"toy.json train\[0\] is not a row with category"),
        (
            json.dumps(
                {
                    "train": [{"category": "toy", "anomaly_class": "OK", "image_path": "OK/x.jpg", "mask_path": None}],
                    "test": [],
                }
            ).encode(),
            r"toy.json train\[0\], image_path: no camera C1 … C5 in 'OK/x.jpg'",
        ),
    ],
)
def test_malformed_real_iad_record(tmp_path: Path, record: bytes, message: str) -> None:
    files = real_iad_files() | {"realiad_jsons/toy.json": record}
    with pytest.raises(IndusCotError, match=message):
        pull_set(tmp_path, "real_iad", write_folder(tmp_path / "iad", files))


def test_malformed_visa_split(tmp_path: Path) -> None:
    files = visa_files()
    files["split_csv/1cls.csv"] = files["split_csv/1cls.csv"].replace(b",train,", b",trian,")
    with pytest.raises(
        IndusCotError, match=r"split_csv/1cls\.csv row 2, column split: 'trian' is neither train nor test"
    ):
        pull_set(tmp_path, "visa", write_folder(tmp_path / "visa", files))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "meh"}, r"parts\.csv row 3, column label: unknown label 'meh'"),
        ({"image": ""}, r"parts\.csv row 3, column image: is empty"),
        ({"image": "../secret.png"}, r"parts\.csv row 3, column image: '../secret.png' must be relative"),
        ({"image": "/etc/secret.png"}, r"parts\.csv row 3, column image: '/etc/secret.png' must be relative"),
        ({"image": "a.png"}, r"parts\.csv row 3, column image: 'a.png' is in row 2 already"),
        ({"boxes": "1 2 3"}, r"parts\.csv row 3, column boxes: '1 2 3' is no list of boxes"),
        ({"boxes": "0.1 0.2 0.6 0.9"}, r"parts\.csv row 3, column boxes: '0.1 0.2 0.6 0.9' has shares of the image"),
        ({"boxes": "9 9 3 3"}, r"parts\.csv row 3, column boxes: box 9 9 3 3 must have"),
        ({"boxes": "0 0 900 3"}, r"parts\.csv row 3, column boxes: pixel box .* does not fit an image of 64 x 48"),
        ({"split": "val"}, r"parts\.csv row 3, column split: 'val' is neither train nor test"),
    ],
)
def test_invalid_row_is_located(tmp_path: Path, change: dict[str, str], message: str) -> None:
    row = {"image": "a.png", "label": "good", "boxes": "", "split": ""}
    rows = [row, row | {"image": "b.png", "label": "bad"} | change]
    files = {"a.png": picture(1), "b.png": picture(2), "parts.csv": csv_bytes(rows)}
    with pytest.raises(IndusCotError, match=message):
        pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files) / "parts.csv")
    assert_nothing_pulled(tmp_path / "work")


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("bbox", "boxes"), ("Boxes", "boxes"), ("bounding_boxes", "boxes"), ("box", "boxes"), ("defect_type", "type"),
        ("tpye", "type"), ("defectType", "type"), ("mask_path", "mask"), ("masks", "mask"), ("object", "category"),
        ("catgory", "category"), ("camera", "view"), ("part_id", "part"), ("subset", "split"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_misspelt_column_is_refused(tmp_path: Path, column: str, meant: str, suffix: str) -> None:
    rows = [{"image": "a.png", "label": "good", column: ""}, {"image": "b.png", "label": "bad", column: "x"}]
    table = csv_bytes(rows) if suffix == "csv" else "\n".join(map(json.dumps, rows)).encode()
    files = {"a.png": picture(1), "b.png": picture(2), f"parts.{suffix}": table}
    with pytest.raises(IndusCotError, match=rf"unknown column {column}; rename it to {meant} if"):
        pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert_nothing_pulled(tmp_path / "work")


@pytest.mark.parametrize("line", ["b.png,bad,0,0,9,9", "b.png,bad,,stray"])
def test_extra_cells_are_located(tmp_path: Path, line: str) -> None:
    table = f"image,label,boxes\na.png,good,,,\n{line}\n".encode()
    files = {"a.png": picture(1), "b.png": picture(2), "parts.csv": table}
    with pytest.raises(IndusCotError, match=r"parts\.csv row 3: has more cells than the header"):
        pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    twice = table.replace(b"image,label,boxes", b"image,label,label")
    source = write_folder(tmp_path / "twice", files | {"parts.csv": twice})
    with pytest.raises(IndusCotError, match=r"parts\.csv: has the column label twice"):
        pull_set(tmp_path / "work", "folder", source)


@pytest.mark.parametrize(
    ("line", "column"),
    [('"b.png,bad,', "image"), ('b.png,"bad,', "label"), ('b.png,bad,"sc"ratch', "type"), ('"b.png",bad,"x', "type")],
)
def test_stray_quote_is_located(tmp_path: Path, line: str, column: str) -> None:
    table = f'image,label,type\na.png,good,"all\nwell"\n{line}\nc.png,good,\n'.encode()
    files = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3), "parts.csv": table}
    with pytest.raises(IndusCotError, match=rf"parts\.csv row 4, column {column}: is not valid CSV"):
        pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert_nothing_pulled(tmp_path / "work")


def test_quoted_field_with_quotes_and_newlines(tmp_path: Path) -> None:
    table = b'image,label,part\na.png,good,"4"" bolt,\nleft"\nb.png,good,4" bolt\n'
    files = {"a.png": picture(1), "b.png": picture(2), "parts.csv": table, "notes.csv": b'remark\n"never closed\n'}
    pulled = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert pulled.samples.height == 2


@pytest.mark.parametrize("boxes", ["5", "true", "false", '{"x": 1}', "[5]", "[true]", "[[1, 2, 3]]"])
def test_malformed_boxes(tmp_path: Path, boxes: str) -> None:
    table = f'{{"image": "a.png", "label": "bad", "boxes": {boxes}}}\n'.encode()
    source = write_folder(tmp_path / "parts", {"a.png": picture(1), "parts.jsonl": table})
    with pytest.raises(IndusCotError, match=r"parts\.jsonl row 1, column boxes: .* is no list of boxes"):
        pull_set(tmp_path / "work", "folder", source)
    assert_nothing_pulled(tmp_path / "work")


def test_table_without_required_columns(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "parts.csv": csv_bytes([{"image": "a.png", "lable": "good"}])}
    folder = write_folder(tmp_path / "parts", files)
    with pytest.raises(IndusCotError, match=r"parts\.csv: has no column label; its columns are image, lable"):
        pull_set(tmp_path / "work", "folder", folder / "parts.csv")
    (folder / "parts.jsonl").write_text('{"image": "a.png", "label": "good"}\n{oops\n')
    with pytest.raises(IndusCotError, match=r"parts\.jsonl row 2: is not valid JSON"):
        pull_set(tmp_path / "work", "folder", folder / "parts.jsonl")


def test_own_images_listed_or_present_only(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "label": "good"}, {"image": "gone.png", "label": "good"}]
    files = {"a.png": picture(1), "extra.png": picture(2), "parts.csv": csv_bytes(rows)}
    pulled = pull_set(tmp_path / "work", "folder", write_folder(tmp_path / "parts", files))
    assert {(row["reason"], row["item"]) for row in pulled.left_out} == {
        ("listed and absent", "gone.png"),
        ("present and unlisted", "extra.png"),
    }


def test_non_ascii_and_very_long_names(tmp_path: Path) -> None:
    category, stem = "Zahnräder 歯車", "ß" * 120
    files = {name.replace("000", stem): data for name, data in mvtec_files(category, "scratch").items()}
    for number, source in enumerate((write_folder(tmp_path / "f", files), write_zip(tmp_path / "z.zip", files))):
        pulled = pull_set(tmp_path / str(number), "folder", source)
        assert pulled.samples.height == 5
        assert pulled.row(f"{category}/test/scratch/{stem}.png")["boxes"]
    long = "x" * 300
    deep = write_tar(tmp_path / "long.tar", mvtec_files() | {f"{long}/train/good/{long}.png": picture(6)})
    pulled = pull_set(tmp_path / "long", "folder", deep)
    assert [row["reason"] for row in pulled.left_out] == ["category or view too long"]
    assert pulled.samples.height == 5
