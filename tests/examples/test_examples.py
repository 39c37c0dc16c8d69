"""Every example runs as its docstring says, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import small_corpus
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_example(name: str, folder: Path, *arguments: object) -> str:
    """Run an example in ``folder`` as a user would; what it printed."""
    environment = os.environ | ENVIRONMENT | {"HF_DATASETS_CACHE": str(folder / "hf")}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_image_is_inspected(tmp_path: Path) -> None:
    printed = run_example("inspect_one_image.py", tmp_path)
    assert "Crop of [400, 400, 700, 700]: 192 x 192 px" in printed and "error: region must be" in printed
    assert "A sound plate is an evenly grey square" in printed
    saved = sorted(path.name for path in (tmp_path / "inspected").iterdir())
    assert saved == ["1_crop.png", "2_crop.png", "3_enhance.png"]
    again = run_example("inspect_one_image.py", tmp_path, "inspected/2_crop.png", "again")
    assert "of [400, 400, 700, 700]" in again and len(list((tmp_path / "again").iterdir())) == 3


def test_own_tool_is_offered_and_called(tmp_path: Path) -> None:
    printed = run_example("own_tool.py", tmp_path)
    assert '"name": "histogram"' in printed and '"image"' not in printed
    assert "Grey levels: black 3%, dark 0%, middle 0%, bright 97%" in printed
    assert "ToolCall(tool='histogram', arguments={})" in printed


def test_own_reward_counts_behind_the_gate(tmp_path: Path) -> None:
    rows = {line[:14].strip(): line[14:].split() for line in run_example("own_reward.py", tmp_path).splitlines()}
    assert rows[""] == ["accuracy", "location", "type", "brevity", "format", "total"]
    assert [rows[name][3] for name in ("right", "long", "wrong")] == ["1.00", "0.00", "0.00"]
    assert rows["right"][-1] == "2.70" and rows["no tags"][-1] == "-0.50"


@pytest.mark.slow
def test_own_parts_become_a_corpus(tmp_path: Path) -> None:
    printed = run_example("own_parts.py", tmp_path, "my parts")
    assert "24 trajectories" in printed and "all equal" in printed
    assert (tmp_path / "my parts/data/indus_cot/data/train-00000.parquet").is_file()


@pytest.mark.slow
def test_batch_is_made_outside(tmp_path: Path) -> None:
    corpus = small_corpus.build(tmp_path / "project").indus_cot
    printed = run_example("train_elsewhere.py", tmp_path, "-", corpus)
    assert "labels               (2, " in printed and "pixel_values" in printed
    bearing, loss = printed.splitlines()[-1].split(" tokens bear loss; loss ")
    # The loss of random weights on a vocabulary of 2,048 tokens is about ln 2048 = 7.6.
    assert int(bearing) > 20 and 5 < float(loss) < 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_listed(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 60
    assert f"`.venv/bin/python examples/{path.name}" in text
    assert f"[{path.name}]({path.name})" in (ROOT / "examples/README.md").read_text("utf-8")
    assert path.name in Path(__file__).read_text("utf-8")
