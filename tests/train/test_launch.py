"""Tests the verbs under `accelerate launch` and `torchrun`: several processes train one model, and only one prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from tests.helpers.paths import ROOT


def _launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start two processes as `accelerate launch` does; on a CPU it would silently start only one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_DATASETS_CACHE": str(folder / "hf"),
    }
    return subprocess.run(
        [*command, str(Path(sys.executable).with_name("indus-cot")), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", sorted((ROOT / "train/configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_config(path: Path) -> None:
    found = load_config_from_file(str(path))
    several = path.stem != "one_gpu"
    assert (found.num_processes > 1) == several
    assert (found.distributed_type.value != "NO") == several
    assert found.mixed_precision == "bf16"


@pytest.fixture
def project(trainable: Workspace, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("indus_cot", "prior"):
        (tmp_path / "data" / name).symlink_to(trainable.data / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


@pytest.mark.slow
@pytest.mark.train
def test_two_processes_write_one_model(project: Path, trainable: Workspace) -> None:
    # test_grpo.py tests `grpo` in two processes; this tests the command itself.
    done = _launch(project, "--set", f"train.model={trainable.root / 'tiny'}", "--set", "sft.steps=2", "sft")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("→ models/sft") == 1
    assert read_manifest(project / "models/sft")["counts"]["steps"] == 2
    assert (project / "models/sft/model.safetensors").is_file()
