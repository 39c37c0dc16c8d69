"""Tests of the command `patch`: killed runs, several processes, with and without Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cot_builder.stages.patch import CHUNK_SAMPLES, PATCH_VERSION, patch
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from tests.helpers.patches import again, chosen, parts, with_settings, written
from tests.helpers.paths import ROOT


@pytest.mark.slow
def test_two_workers_write_equal_bytes(many: Workspace, tmp_path: Path) -> None:
    other = again(many, tmp_path)
    patch(with_settings(compute__workers=2), other)
    assert written(other.patch) == written(many.patch)


def start_patch(workspace: Workspace, *arguments: str, script: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start ``indus-cot <arguments> patch`` in the workspace, after ``script`` in the same process."""
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
def blocked_project(tmp_path: Path) -> Iterator[tuple[Workspace, bytes]]:
    """A project with one chunk of valid images, and a shard that is a pipe without writer, so that a run blocks there."""
    workspace = chosen(tmp_path, {"real_iad": parts(CHUNK_SAMPLES), "sdd": parts(2, "kos")})
    shard = workspace.pull("sdd") / "image-00000.parquet"
    data = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)
    yield workspace, data
    if shard.is_fifo():
        shard.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_resumes(blocked_project: tuple[Workspace, bytes], workers: int) -> None:
    workspace, data = blocked_project
    staging = workspace.data / ".patch.partial"
    child = start_patch(workspace, "--set", f"compute.workers={workers}")
    family: list[psutil.Process] = []
    try:
        while not (staging / ".rows-00000.json").exists():
            with pytest.raises(subprocess.TimeoutExpired):  # The run must still be blocked.
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


@pytest.mark.slow
def test_ray_writes_equal_bytes_and_exits(many: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    other = again(many, tmp_path)
    # Ray's sockets require a short path.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        child = start_patch(
            other,
            *("--set", "compute.executor=ray", "--set", "compute.workers=2"),
            env=os.environ | {"RAY_TMPDIR": folder},
        )
        output, _ = child.communicate(timeout=300)
        assert child.returncode == 0, output
        left = [item for item in psutil.process_iter(["cmdline"]) if folder in " ".join(item.info["cmdline"] or [])]
        _, alive = psutil.wait_procs(left, timeout=60)
        assert not alive, "Ray ends with the run"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert written(other.patch) == written(many.patch)
    assert "ray" not in output.lower() and "INFO" not in output, output


NO_RAY = """
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoRay())
"""


@pytest.mark.slow
def test_missing_ray_names_the_package(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    child = start_patch(workspace, "--set", "compute.executor=ray", script=NO_RAY)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert output.strip() == "error: compute.executor: ray needs Ray Data; install it with `pip install -e '.[ray]'`"
    assert not workspace.patch.exists()


def test_worker_count_does_not_invalidate_patches(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    patch(with_settings(), workspace)
    one = json.dumps(read_manifest(workspace.patch)["params"])
    patch(with_settings(compute__workers=2), workspace)
    assert json.dumps(read_manifest(workspace.patch)["params"]) == one


@pytest.mark.slow
def test_worker_imports_no_pandas(tmp_path: Path) -> None:
    # Importing either of them takes each worker process half a second.
    script = "import sys\nfrom cot_builder.stages import patch\nfrom cot_builder.storage.shards import ShardWriter\n"
    script += f"with ShardWriter(__import__('pathlib').Path({str(tmp_path)!r})) as writer:\n    writer.add('a', b'b')\n"
    script += "print(sorted({'pandas', 'pandera', 'datasets'} & set(sys.modules)))\n"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_manifest_contains_the_patch_version(tmp_path: Path) -> None:
    workspace = chosen(tmp_path, {"real_iad": parts(2)})
    patch(with_settings(), workspace)
    assert read_manifest(workspace.patch)["params"]["patch_version"] == PATCH_VERSION
