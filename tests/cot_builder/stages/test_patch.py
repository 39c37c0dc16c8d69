"""Patches: conspicuous places found without the truth, the same whatever makes them, nothing lost by damage or a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.proposals import propose
from cot_builder.params import Params
from cot_builder.stages.patch import CHUNK, PATCH_VERSION, patch, patch_sample
from cot_builder.storage.images import decode, encode_png
from cot_builder.storage.output import read_manifest
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.geometry import Box, check_box, from_pixels, intersection, to_pixels
from schemas.patch import PATCH, PatchPair
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from tests.helpers.paths import ROOT
from tests.helpers.pulled import Pulled, params_for, picture, write_pulled_set

SETS = {"real_iad": ("real_iad", "train"), "sdd": ("sdd", "train")}
WIDTH, HEIGHT = 240, 180
DEFECT = (150, 40, 190, 64)
NO_IMAGE = b"\x89PNG\r\n\x1a\n of no use"

# Proposals


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    width, height = draw(st.sampled_from([(1, 1), (3, 40), (64, 48), (300, 200), (700, 30), (40, 900)]))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["flat", "noise", "blobs", "structure"]))
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "structure":
        return picture(str(random.integers(999)), width, height)
    image = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(random.integers(1, 9) if kind == "blobs" else 0):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(image, centre, int(random.integers(1, 40)), random.integers(0, 256, 3).tolist(), -1)
    return image


@settings(max_examples=120, deadline=None)
@given(images(), st.integers(1, 6))
def test_proposals_are_boxes_apart_ranked_and_a_longer_list_goes_on_where_a_shorter_one_ends(
    image: np.ndarray, count: int
) -> None:
    found = propose(image, count)
    assert 1 <= len(found) <= count
    for item in found:
        check_box(item.box)
        assert item.score >= 0
    assert all(
        intersection(first.box, second.box) is None for n, first in enumerate(found) for second in found[n + 1 :]
    )
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert propose(image, count + 3)[:count] == found
    assert propose(image.copy(), count) == found
    assert propose(image, 0) == []


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 900),
    st.integers(60, 600),
    st.floats(0.2, 0.8),
    st.floats(0.2, 0.8),
    st.floats(0.04, 0.12),
    st.booleans(),
)
def test_a_blob_on_a_plain_background_is_found(
    width: int, height: int, x: float, y: float, size: float, dark: bool
) -> None:
    image = np.full((height, width, 3), 200 if dark else 40, np.uint8)
    centre = round(x * width), round(y * height)
    radius = max(5, round(size * min(width, height)))
    cv2.circle(image, centre, radius, (20, 20, 20) if dark else (230, 230, 230), -1)
    first = propose(image, 3)[0]
    x1, y1, x2, y2 = to_pixels(first.box, width, height)
    assert x1 <= centre[0] < x2 and y1 <= centre[1] < y2
    # Nearly all of it, in a place that is not the whole image.
    slack = 1 + max(width, height) // 200
    assert x1 <= centre[0] - radius + slack and x2 >= centre[0] + radius - slack
    assert y1 <= centre[1] - radius + slack and y2 >= centre[1] + radius - slack
    assert (x2 - x1) * (y2 - y1) < 0.35 * width * height
    assert first.method == "foreground"


@pytest.mark.parametrize("shape", [(1, 1, 3), (80, 60, 3), (400, 700, 3), (50, 50)])
def test_a_flat_image_gives_its_centre(shape: tuple[int, ...]) -> None:
    found = propose(np.full(shape, 90, np.uint8), 4)
    assert [(item.box, item.score, item.method) for item in found] == [((250, 250, 750, 750), 0.0, "centre")]


def test_a_scratch_within_a_part_is_found_and_not_the_part() -> None:
    image = np.full((400, 500, 3), 240, np.uint8)
    image[40:360, 50:450] = 120
    cv2.line(image, (180, 150), (260, 190), (60, 60, 60), 4)
    box = propose(image, 1)[0].box
    truth = from_pixels((178, 148, 263, 193), 500, 400)
    assert intersection(box, truth) == truth
    assert (box[2] - box[0]) * (box[3] - box[1]) < 100_000


# The stage


def drawn(key: str, defect: bool, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A grey plate with structure, and a dark patch at DEFECT."""
    image = np.full((height, width, 3), 210, np.uint8)
    image[15:-15, 15:-15] = 110 + picture(key, width - 30, height - 30, contrast=20)[..., :1] // 8
    if defect:
        x1, y1, x2, y2 = DEFECT
        image[y1:y2, x1:x2] = 20
    return encode_png(image)


@cache
def parts(count: int, name: str = "bracket") -> list[Pulled]:
    """Normal and defective parts in turns."""
    return [
        Pulled(
            name,
            f"S{number:04d}",
            defect="scratch" if number % 2 else None,
            data=drawn(f"{name} {number}", bool(number % 2)),
            box=DEFECT,
        )
        for number in range(count)
    ]


def chosen(root: Path, sets: dict[str, Sequence[Pulled]]) -> Workspace:
    """Pull ``sets`` and hand all of them on, as `select` would."""
    workspace = Workspace(root)
    samples: list[Sample] = []
    truths: list[Supervision] = []
    for name, pulled in sets.items():
        write_pulled_set(workspace, name, pulled)
        samples += SAMPLE.records(SAMPLE.read(workspace.pull(name) / "sample.parquet"))
        truths += SUPERVISION.records(SUPERVISION.read(workspace.pull(name) / "supervision.parquet"))
    SAMPLE.write(SAMPLE.frame(samples), workspace.select / "sample.parquet")
    SUPERVISION.write(SUPERVISION.frame(truths), workspace.select / "supervision.parquet")
    return workspace


def with_settings(**values: object) -> Params:
    """Patches so small that some of them are shrunk and some are not."""
    return params_for(SETS, **({"compute__workers": 1, "patch__local_size": 56} | values))


def written(folder: Path) -> dict[str, Any]:
    """Every file of a stage's output; of the manifest, all but how long it took."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["manifest.json"] = {key: value for key, value in read_manifest(folder).items() if key != "seconds"}
    return files


def rows_of(workspace: Workspace) -> list[PatchPair]:
    return PATCH.records(PATCH.read(workspace.patch / "patch.parquet"))


def left_out(workspace: Workspace) -> list[tuple[str, str]]:
    with (workspace.patch / "left_out.csv").open(newline="", encoding="utf-8") as file:
        return [(row["reason"], row["item"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Forty samples in three chunks, one of them damaged, cut by one worker in this process."""
    damaged = Pulled("bracket", "broken", data=NO_IMAGE)
    workspace = chosen(tmp_path_factory.mktemp("many"), {"real_iad": [*parts(19), damaged, *parts(20, "lid")]})
    patch(with_settings(), workspace)
    return workspace


def again(many: Workspace, root: Path) -> Workspace:
    """The same input elsewhere, without the output."""
    shutil.copytree(many.data, root / "data", ignore=shutil.ignore_patterns("patch", ".patch*"))
    return Workspace(root)


def test_every_row_is_a_crop_of_the_original_beside_its_whole(many: Workspace) -> None:
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
        # Smaller than global_size: kept as it is.
        assert np.array_equal(decode(stored.get(row.global_shard, row.global_row)), image)
    assert small > 10 and large > 10
    assert {path.name for path in many.patch.iterdir()} == {
        "patch.parquet", "manifest.json", "left_out.csv", *(f"patches-{number:05d}-00000.parquet" for number in range(3)),
    }  # fmt: skip
    ids = [row.patch_id for row in rows_of(many)]
    assert len(ids) == len(set(ids))


def test_a_global_view_is_the_whole_at_most_as_long_as_asked_for(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(3)})
    patch(with_settings(patch__global_size=100, patch__local_size=400), workspace)
    stored = ShardReader(workspace.patch)
    for row in rows_of(workspace):
        assert decode(stored.get(row.global_shard, row.global_row)).shape == (75, 100, 3)
        assert row.width <= WIDTH and row.height <= HEIGHT, "patches are never enlarged"


def test_defect_patches_hold_the_whole_truth_box_and_hard_normal_ones_touch_none(many: Workspace) -> None:
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


def test_the_truth_does_not_move_a_proposal(many: Workspace, tmp_path: Path) -> None:
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


def test_where_a_defect_lies_unknown_no_place_is_taken_for_defect_free(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 210, np.uint8)
    for x in (40, 120, 200):
        cv2.circle(image, (x, 90), 9, (30, 30, 30), -1)
    unknown = Pulled("lid", "A", defect="scratch", box=None, area_fraction=None, data=encode_png(image))
    normal = Pulled("lid", "N", data=encode_png(image))
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
def test_a_jittered_patch_holds_a_defect_at_any_place_of_any_size(
    x: int, y: int, width: int, height: int, jitter: float, seed: int
) -> None:
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


def test_regions_of_one_image_are_cut_out(tmp_path: Path) -> None:
    third = HEIGHT // 3
    file = encode_png(picture("strip", WIDTH, HEIGHT))
    thirds = [
        Pulled(
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


def test_two_workers_write_the_same_bytes(many: Workspace, tmp_path: Path) -> None:
    other = again(many, tmp_path)
    patch(with_settings(compute__workers=2), other)
    assert written(other.patch) == written(many.patch)


def test_a_damaged_image_costs_that_image(many: Workspace, tmp_path: Path) -> None:
    damaged = Pulled("bracket", "broken", data=NO_IMAGE).sample_id("real_iad")
    assert left_out(many) == [("damaged image", damaged)]
    assert read_manifest(many.patch)["left_out"] == {"damaged image": 1}
    assert len({row.sample_id for row in rows_of(many)}) == 39

    other = again(many, tmp_path)
    with pytest.raises(IndusCotError, match=f"{damaged}: damaged image .*does not decode.*run.strict"):
        patch(with_settings(run__strict=True), other)
    assert not other.patch.exists()
    patch(with_settings(), other)
    assert written(other.patch) == written(many.patch)


def test_a_missing_shard_is_no_damaged_image(many: Workspace, tmp_path: Path) -> None:
    other = again(many, tmp_path)
    name = SAMPLE.records(SAMPLE.read(other.select / "sample.parquet"))[0].shard
    (other.pull("real_iad") / name).unlink()
    with pytest.raises(IndusCotError, match=r"missing or damaged shard .*run `indus-cot pull real_iad` again"):
        patch(with_settings(), other)
    assert not other.patch.exists()


def test_samples_without_a_patch_leave_no_file_behind(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(4)})
    patch(with_settings(patch__proposals=0, patch__hard_normal=0), workspace)
    assert [row.kind for row in rows_of(workspace)] == ["defect"] * 2
    workspace = chosen(tmp_path / "normal", {"real_iad": parts(1)})
    patch(with_settings(patch__proposals=0, patch__hard_normal=0), workspace)
    assert {path.name for path in workspace.patch.iterdir()} == {"patch.parquet", "manifest.json", "left_out.csv"}


def test_before_select_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"select/sample.parquet: not there; run the stage that makes it first"):
        patch(with_settings(), Workspace(tmp_path))


# As a command: killed, on Ray, without Ray


def command(workspace: Workspace, *arguments: str, script: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start ``indus-cot <arguments> patch`` in the workspace; ``script`` runs before it, in its process."""
    shutil.copy(ROOT / "params.yaml", workspace.root)
    (workspace.root / "profiles").mkdir(exist_ok=True)
    (workspace.root / "profiles/default.yaml").write_text("{}\n")
    words = ["--set", "patch.local_size=56", *arguments, "patch"]
    start = f"import sys\n{script}\nif __name__ == '__main__':\n    from indus_cot.app import main\n    sys.exit(main({words!r}))\n"
    (workspace.root / "start.py").write_text(start)
    return subprocess.Popen(
        [sys.executable, "start.py"],
        cwd=workspace.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[tuple[Workspace, bytes]]:
    """A chunk of good images, then one whose shard is a pipe that nobody writes: the run stops there."""
    workspace = chosen(tmp_path, {"real_iad": parts(CHUNK), "sdd": parts(2, "kos")})
    shard = workspace.pull("sdd") / "image-00000.parquet"
    data = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)
    yield workspace, data
    if shard.is_fifo():
        shard.unlink()


@pytest.mark.parametrize("workers", [1, 2])
def test_after_kill_9_the_next_run_goes_on_where_it_stopped(killed: tuple[Workspace, bytes], workers: int) -> None:
    workspace, data = killed
    staging = workspace.data / ".patch.partial"
    child = command(workspace, "--set", f"compute.workers={workers}")
    family: list[psutil.Process] = []
    try:
        while not (staging / ".rows-00000.json").exists():
            with pytest.raises(subprocess.TimeoutExpired):  # it must not end by itself
                child.wait(0.02)
        family = psutil.Process(child.pid).children(recursive=True)
        assert workers == 1 or len(family) >= 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout:
            child.stdout.close()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
    assert not alive, "workers end with the run"
    assert not workspace.patch.exists()
    before = (staging / "patches-00000-00000.parquet").stat()

    shard = workspace.pull("sdd") / "image-00000.parquet"
    shard.unlink()
    shard.write_bytes(data)
    patch(with_settings(), workspace)
    after = (workspace.patch / "patches-00000-00000.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    resumed = written(workspace.patch)
    shutil.rmtree(workspace.patch)
    patch(with_settings(), workspace)
    assert resumed == written(workspace.patch)


def test_ray_writes_the_same_bytes_quietly_and_ends(many: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    other = again(many, tmp_path)
    # Ray's sockets need a short path.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        child = command(
            other,
            *("--set", "compute.executor=ray", "--set", "compute.workers=2"),
            env=os.environ | {"RAY_TMPDIR": folder},
        )
        said, _ = child.communicate(timeout=300)
        assert child.returncode == 0, said
        left = [item for item in psutil.process_iter(["cmdline"]) if folder in " ".join(item.info["cmdline"] or [])]
        _, alive = psutil.wait_procs(left, timeout=60)
        assert not alive, "Ray ends with the run"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert written(other.patch) == written(many.patch)
    assert "ray" not in said.lower() and "INFO" not in said, said


NO_RAY = """
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoRay())
"""


def test_without_ray_the_message_says_what_to_install(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    child = command(workspace, "--set", "compute.executor=ray", script=NO_RAY)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert said.strip() == "error: compute.executor: ray needs Ray Data; install it with `pip install -e '.[ray]'`"
    assert not workspace.patch.exists()


def test_the_number_of_workers_is_no_reason_to_start_again(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    patch(with_settings(), workspace)
    one = json.dumps(read_manifest(workspace.patch)["params"])
    patch(with_settings(compute__workers=2), workspace)
    assert json.dumps(read_manifest(workspace.patch)["params"]) == one


def test_a_worker_imports_neither_pandas_nor_pandera(tmp_path: Path) -> None:
    # Each costs a worker process half a second before its first image.
    script = "import sys\nfrom cot_builder.stages import patch\nfrom cot_builder.storage.shards import ShardWriter\n"
    script += f"with ShardWriter(__import__('pathlib').Path({str(tmp_path)!r})) as writer:\n    writer.add('a', b'b')\n"
    script += "print(sorted({'pandas', 'pandera', 'datasets'} & set(sys.modules)))\n"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_version_of_the_patches_is_part_of_what_a_resumed_run_must_share(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    patch(with_settings(), workspace)
    assert read_manifest(workspace.patch)["params"]["patch_version"] == PATCH_VERSION
