"""The verbs as `accelerate launch` starts them: several processes that train one model and speak as one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace

ROOT = Path(__file__).parent.parent
TWO = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
mixed_precision: "no"
num_machines: 1
num_processes: 2
main_process_port: 0
"""


def _launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "two.yaml").write_text(TWO)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", "two.yaml"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_DATASETS_CACHE": str(folder / "hf"),
    }
    return subprocess.run(
        [*command, "-m", "cot_builder", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(trainable: Workspace, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("indus_cot", "prior"):
        (tmp_path / "data" / name).symlink_to(trainable.data / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


def test_two_processes_train_one_model_and_one_of_them_speaks(project: Path, trainable: Workspace) -> None:
    settings = ("--set", f"train.model={trainable.root / 'tiny'}", "--set", "sft.steps=2")
    planned = _launch(project, *settings, "sft", "--print-plan")
    assert planned.returncode == 0, planned.stderr[-3000:]
    assert planned.stdout.count("effective batch  4 = 2 processes x 1 a device x 2 accumulated") == 1
    assert not (project / "models").exists()
    done = _launch(project, *settings, "sft")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("sft: ") == 1
    assert read_manifest(project / "models/sft")["counts"]["steps"] == 2
    assert (project / "models/sft/model.safetensors").is_file()
    short = ("--set", "grpo.steps=1", "--set", "grpo.batch=2", "--set", "grpo.max_completion=32")
    done = _launch(project, *settings, *short, "grpo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_manifest(project / "models/grpo")["counts"]["steps"] == 1
