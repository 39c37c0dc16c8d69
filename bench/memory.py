"""Peak memory of a stage at ten times the images against that at one time."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.data import write_archive
from bench.paired import Row
from bench.patching import write_selection

FEW, MANY = 40, 400
RUNS = 3
CHILD = """
import sys
from pathlib import Path
from bench.patching import patch_params
from bench.pulling import archive_params
from cot_builder.progress import console
from cot_builder.storage.workspace import Workspace
console.quiet = True
stage, folder = sys.argv[1], Path(sys.argv[2])
if stage == "pull":
    from cot_builder.stages.pull import pull
    pull("mvtec_ad", archive_params(folder / "mvtec.tar"), Workspace(folder))
else:
    from cot_builder.stages.patch import patch
    patch(patch_params(1), Workspace(folder))
# ru_maxrss begins at the size of the process that started this one.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def _peak(stage: str, folder: Path) -> int:
    done = subprocess.run([sys.executable, "-c", CHILD, stage, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _ratio(stage: str) -> float:
    return statistics.median(_once(stage) for _ in range(RUNS))


def _once(stage: str) -> float:
    peaks = []
    for images in (FEW, MANY):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if stage == "pull":
                write_archive(folder / "mvtec.tar", images)
            else:
                write_selection(folder, images)
            peaks.append(_peak(stage, folder))
    return peaks[1] / peaks[0]


def memory_pull() -> Row:
    """40 and 400 images."""
    return Row("memory_pull", "peak memory of pull at 10x the images", "at 1x", _ratio("pull"), 1.2, "lower")


def memory_patch() -> Row:
    """The same images through `patch`, in one process."""
    return Row("memory_patch", "peak memory of patch at 10x the images", "at 1x", _ratio("patch"), 1.2, "lower")
