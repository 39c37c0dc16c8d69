"""Tests of patches: local patches, global views, and damaged images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.stages.patch import patch, patch_sample
from cot_builder.storage.images import decode, encode_png
from cot_builder.storage.output import read_manifest
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.geometry import Box, check_box, from_pixels, intersection, to_pixels
from schemas.sample import SAMPLE
from schemas.supervision import SUPERVISION, Supervision
from tests.helpers.patches import (
    HEIGHT,
    NO_IMAGE,
    WIDTH,
    again,
    chosen,
    left_out,
    parts,
    rows_of,
    with_settings,
    written,
)
from tests.helpers.pulled import PulledImage, picture


def test_patches_are_crops_with_global_views(many: Workspace) -> None:
    samples = {row.sample_id: row for row in SAMPLE.records(SAMPLE.read(many.select / "sample.parquet"))}
    originals, stored = SampleImages(many), ShardReader(many.patch)
    small = large = 0
    for row in rows_of(many):
        image = originals.pixels(samples[row.sample_id])
        found = decode(stored.get(row.shard, row.row))
        x1, y1, x2, y2 = to_pixels(row.box, image.shape[1], image.shape[0])
        assert found.shape[:2] == (row.height, row.width)
        if max(x2 - x1, y2 - y1) <= 56:
            small += 1
            assert np.array_equal(found, image[y1:y2, x1:x2])
        else:
            large += 1
            assert max(row.width, row.height) == 56
            assert row.width / row.height == pytest.approx((x2 - x1) / (y2 - y1), rel=0.05)
            whole = cv2.resize(image[y1:y2, x1:x2], (row.width, row.height), interpolation=cv2.INTER_AREA)
            assert cv2.absdiff(found, whole).mean() < 1
        # The image is smaller than global_size, so it is not scaled.
        assert np.array_equal(decode(stored.get(row.global_shard, row.global_row)), image)
    assert small > 10 and large > 10
    assert {path.name for path in many.patch.iterdir()} == {
        "patch.parquet", "manifest.json", "left_out.csv", *(f"patches-{number:05d}-00000.parquet" for number in range(3)),
    }  # fmt: skip
    ids = [row.patch_id for row in rows_of(many)]
    assert len(ids) == len(set(ids))


def test_global_view_size(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(3)})
    patch(with_settings(patch__global_size=100, patch__local_size=400), workspace)
    stored = ShardReader(workspace.patch)
    for row in rows_of(workspace):
        assert decode(stored.get(row.global_shard, row.global_row)).shape == (75, 100, 3)
        assert row.width <= WIDTH and row.height <= HEIGHT, "patches are never enlarged"


def test_defect_and_hard_normal_patch_boxes(many: Workspace) -> None:
    truths = {row.sample_id: row for row in SUPERVISION.records(SUPERVISION.read(many.select / "supervision.parquet"))}
    kinds: dict[str, list[str]] = {}
    for row in rows_of(many):
        boxes = truths[row.sample_id].boxes
        kinds.setdefault(row.sample_id, []).append(row.kind)
        if row.kind == "defect":
            assert intersection(row.box, boxes[row.rank]) == boxes[row.rank]
            assert row.method == "supervision"
        if row.kind == "hard_normal":
            assert not any(intersection(row.box, box) for box in boxes)
    for sample_id, found in kinds.items():
        anomalous = truths[sample_id].label == "anomalous"
        assert found.count("defect") == anomalous, sample_id
        assert 1 <= found.count("proposal") <= 3
    assert sum("hard_normal" in found for found in kinds.values()) > 10
    counts = read_manifest(many.patch)["counts"]
    assert counts["samples"] == 40 and counts["patches"] == len(rows_of(many)) == sum(map(len, kinds.values()))
    assert {key: counts[key] for key in ("proposal", "defect", "hard_normal")} == {
        key: sum(found.count(key) for found in kinds.values()) for key in ("proposal", "defect", "hard_normal")
    }


def test_proposals_do_not_depend_on_truth(many: Workspace, tmp_path: Path) -> None:
    def proposals(workspace: Workspace) -> list[tuple[str, Box, int]]:
        return [(row.sample_id, row.box, row.rank) for row in rows_of(workspace) if row.kind == "proposal"]

    other = again(many, tmp_path)
    frame = SUPERVISION.read(other.select / "supervision.parquet")
    truths = [
        row.model_copy(update={"label": "normal", "defect_type": None, "raw_type": None, "boxes": []})
        for row in SUPERVISION.records(frame)
    ]
    SUPERVISION.write(SUPERVISION.frame(truths), other.select / "supervision.parquet")
    patch(with_settings(), other)
    assert proposals(other) == proposals(many)
    assert not any(row.kind == "defect" for row in rows_of(other))


def test_unknown_defect_location_has_no_hard_normals(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 210, np.uint8)
    for x in (40, 120, 200):
        cv2.circle(image, (x, 90), 9, (30, 30, 30), -1)
    unknown = PulledImage("lid", "A", defect="scratch", box=None, area_fraction=None, data=encode_png(image))
    normal = PulledImage("lid", "N", data=encode_png(image))
    workspace = chosen(tmp_path, {"real_iad": [unknown, normal]})
    patch(with_settings(patch__proposals=1, patch__hard_normal=2), workspace)
    kinds: dict[str, list[str]] = {}
    for row in rows_of(workspace):
        kinds.setdefault(row.sample_id, []).append(row.kind)
    assert kinds[unknown.sample_id("real_iad")] == ["proposal"]
    assert kinds[normal.sample_id("real_iad")] == ["proposal", "hard_normal", "hard_normal"]


@settings(max_examples=80, deadline=None)
@given(
    x=st.integers(0, WIDTH - 2),
    y=st.integers(0, HEIGHT - 2),
    width=st.integers(1, WIDTH),
    height=st.integers(1, HEIGHT),
    jitter=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_jittered_patch_contains_the_defect(x: int, y: int, width: int, height: int, jitter: float, seed: int) -> None:
    box = x, y, min(x + width, WIDTH), min(y + height, HEIGHT)
    truth = Supervision(
        sample_id="a/b/0", source_path="b", label="anomalous", raw_type="dent", defect_type="dent",
        boxes=[from_pixels(box, WIDTH, HEIGHT)], area_fraction=0.1, mask_shard=None, mask_row=None,
    )  # fmt: skip
    params = with_settings(patch__jitter=jitter).patch
    made = patch_sample(picture("jitter", WIDTH, HEIGHT), "a/b/0", truth, params, seed)
    (found,) = [item.box for item in made if item.kind == "defect"]
    assert intersection(check_box(found), truth.boxes[0]) == truth.boxes[0]
    x1, y1, x2, y2 = to_pixels(found, WIDTH, HEIGHT)
    assert x1 <= box[0] and y1 <= box[1] and box[2] <= x2 and box[3] <= y2
    for low in (0, 1):
        side = truth.boxes[0][low + 2] - truth.boxes[0][low]
        assert found[low + 2] - found[low] == min(1000, max(round(1.8 * side), 110)), (
            "some context, not the whole image"
        )
    assert not any(intersection(item.box, truth.boxes[0]) for item in made if item.kind == "hard_normal")


def test_jitter_follows_the_seed(many: Workspace, tmp_path: Path) -> None:
    def defects(seed: int, jitter: float) -> list[Box]:
        workspace = Workspace(tmp_path)
        patch(with_settings(run__seed=seed, patch__jitter=jitter), workspace)
        return [row.box for row in rows_of(workspace) if row.kind == "defect"]

    chosen(tmp_path, {"real_iad": parts(6)})
    first = defects(1, 0.2)
    assert defects(1, 0.2) == first
    assert defects(2, 0.2) != first
    assert len(set(first)) > 1, "each sample has its own"
    assert len(set(defects(1, 0.0))) == 1 and defects(1, 0.0) == defects(2, 0.0)


def test_regions_are_cropped(tmp_path: Path) -> None:
    third = HEIGHT // 3
    file = encode_png(picture("strip", WIDTH, HEIGHT))
    thirds = [
        PulledImage(
            "kos", f"P{n}", "default", path=f"kos/Part{n}.png", data=file, region=(0, n * third, WIDTH, (n + 1) * third)
        )
        for n in range(3)
    ]
    workspace = chosen(tmp_path, {"sdd": thirds})
    patch(with_settings(), workspace)
    image, stored = picture("strip", WIDTH, HEIGHT), ShardReader(workspace.patch)
    rows = rows_of(workspace)
    for number, item in enumerate(thirds):
        region = image[number * third : (number + 1) * third]
        mine = [row for row in rows if row.sample_id == item.sample_id("sdd")]
        assert mine
        for row in mine:
            assert np.array_equal(decode(stored.get(row.global_shard, row.global_row)), region)
            x1, y1, x2, y2 = to_pixels(row.box, WIDTH, third)
            if max(x2 - x1, y2 - y1) <= 56:
                assert np.array_equal(decode(stored.get(row.shard, row.row)), region[y1:y2, x1:x2])


def test_damaged_image_is_left_out(many: Workspace, tmp_path: Path) -> None:
    damaged = PulledImage("bracket", "broken", data=NO_IMAGE).sample_id("real_iad")
    assert left_out(many) == [("damaged image", damaged)]
    assert read_manifest(many.patch)["left_out"] == {"damaged image": 1}
    assert len({row.sample_id for row in rows_of(many)}) == 39

    other = again(many, tmp_path)
    with pytest.raises(IndusCotError, match=f"{damaged}: damaged image .*does not decode.*run.strict"):
        patch(with_settings(run__strict=True), other)
    assert not other.patch.exists()
    patch(with_settings(), other)
    assert written(other.patch) == written(many.patch)


def test_missing_shard_is_an_error(many: Workspace, tmp_path: Path) -> None:
    other = again(many, tmp_path)
    name = SAMPLE.records(SAMPLE.read(other.select / "sample.parquet"))[0].shard
    (other.pull("real_iad") / name).unlink()
    with pytest.raises(IndusCotError, match=r"missing or damaged shard .*run `indus-cot pull real_iad` again"):
        patch(with_settings(), other)
    assert not other.patch.exists()


def test_samples_without_patches(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(4)})
    patch(with_settings(patch__proposals=0, patch__hard_normal=0), workspace)
    assert [row.kind for row in rows_of(workspace)] == ["defect"] * 2
    workspace = chosen(tmp_path / "normal", {"real_iad": parts(1)})
    patch(with_settings(patch__proposals=0, patch__hard_normal=0), workspace)
    assert {path.name for path in workspace.patch.iterdir()} == {"patch.parquet", "manifest.json", "left_out.csv"}


def test_missing_selection_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"select/sample.parquet: not found; first run the stage that makes it"):
        patch(with_settings(), Workspace(tmp_path))
