"""`patch` against bare OpenCV on the same pixels, and two workers against one."""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from bench.data import CATEGORY, write_archive
from bench.paired import Row, paired
from bench.pulling import archive_params
from cot_builder.params import Params, load_params
from cot_builder.progress import console
from cot_builder.stages.patch import patch
from cot_builder.stages.pull import pull
from cot_builder.storage.images import PNG
from cot_builder.storage.samples import read_samples
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.geometry import to_pixels
from schemas.patch import PATCH
from schemas.sample import SAMPLE
from schemas.supervision import SUPERVISION

FEW, MANY = 96, 256


def patch_params(workers: int) -> Params:
    """The default parameters with a number of workers."""
    return load_params(settings=[f"compute.workers={workers}"])


def write_selection(folder: Path, images: int) -> Workspace:
    """Pull an archive and take all of it, as `select` would hand it on."""
    console.quiet = True
    workspace = Workspace(folder)
    archive = folder / "mvtec.tar"
    write_archive(archive, images)
    pull("mvtec_ad", archive_params(archive), workspace)
    archive.unlink()
    SAMPLE.write(read_samples(workspace, "mvtec_ad"), workspace.select / "sample.parquet")
    supervision = SUPERVISION.read(workspace.pull("mvtec_ad") / "supervision.parquet")
    SUPERVISION.write(supervision, workspace.select / "supervision.parquet")
    return workspace


def patch_one_core() -> Row:
    """Decode, crop, resize and PNG-encode the very patches that the stage made, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, params = write_selection(Path(folder), FEW), patch_params(1)
        patch(params, workspace)
        made = PATCH.read(workspace.patch / "patch.parquet").partition_by("sample_id", as_dict=True)
        samples = SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
        reader = ShardReader(workspace.pull("mvtec_ad"))
        threads = cv2.getNumThreads()

        def bare() -> None:
            for sample in samples:
                data = np.frombuffer(reader.get(sample.shard, sample.row), np.uint8)
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
                assert image is not None
                height, width = image.shape[:2]
                _encode(image, params.patch.global_size)
                for box in made[(sample.sample_id,)]["box"].to_list():
                    x1, y1, x2, y2 = to_pixels(box, width, height)
                    _encode(image[y1:y2, x1:x2], params.patch.local_size)

        cv2.setNumThreads(1)
        ratio = paired(lambda: patch(params, workspace), bare, 7)
        cv2.setNumThreads(threads)
    what = "bare decode + crop + encode of the same pixels"
    return Row("patch_one_core", f"patch on one core, images/s ({CATEGORY})", what, ratio, 0.8, "higher")


def patch_two_workers() -> Row:
    """The same images, enough of them that starting a process does not count."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = write_selection(Path(folder), MANY)
        one, two = patch_params(1), patch_params(2)
        ratio = paired(lambda: patch(two, workspace), lambda: patch(one, workspace), 3)
    return Row("patch_two_workers", "patch with 2 workers, images/s", "1 worker", ratio, 1.7, "higher")


def _encode(pixels: np.ndarray, longest: int) -> bytes:
    scale = longest / max(pixels.shape[:2])
    if scale < 1:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", pixels, PNG)[1].tobytes()
