"""Tests the model card: it describes the model, reveals no local path, and its code runs."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from huggingface_hub import ModelCard

from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash
from tests.helpers.training_project import params
from train import card
from train.sft import sft

torch.set_num_threads(1)
FIGURES = {"steps": 3, "loss": 0.123456}


@pytest.fixture
def workspace(trainable: Workspace, tmp_path: Path) -> Workspace:
    """The corpus and the model of all tests, in a project of its own."""
    (tmp_path / "data").mkdir()
    for name in ("data/indus_cot", "tiny"):
        (tmp_path / name).symlink_to(trainable.root / name)
    return Workspace(tmp_path)


def _rows(text: str) -> dict[str, list[str]]:
    """Cells of every table's rows, by the first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_sft_writes_complete_model_card(workspace: Workspace, trainable: Workspace) -> None:
    sft(params(workspace, {"steps": 1, "learning_rate": 0.002}), workspace)
    found = ModelCard.load(workspace.sft / "README.md")
    assert found.data.to_dict()["tags"] == ["indus-cot", "industrial-inspection", "anomaly-detection", "trl", "sft"]
    assert (found.data.library_name, found.data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert found.data.base_model is None
    rows, counts = _rows(found.text), read_manifest(workspace.indus_cot)["counts"]
    assert f"{counts['train']} train, {counts['validation']} validation" in rows["corpus"][0]
    assert file_hash(workspace.indus_cot / "manifest.json") in rows["corpus"][0]
    licences = {
        licence
        for path in workspace.indus_cot.glob("data/*.parquet")
        for licence in pl.read_parquet(path, columns=["licence"])["licence"]
    }
    assert rows["licences of the images"] == ["; ".join(sorted(licences))]
    assert rows["reviewed by a person"] == [f"0 of {counts['train'] + counts['validation']} trajectories"]
    assert rows["`sft.learning_rate`"] == ["0.002"] and rows["`run.seed`"] and rows["`train.model`"] == ["tiny"]
    assert rows["steps"] == ["1"] and float(rows["validation loss"][0]) > 0
    assert f"torch {torch.__version__}" in found.text
    for private in (str(workspace.root), str(trainable.root)):
        assert private not in found.text
    (snippet,) = re.findall(r"```python\n(.*?)```", found.text, re.DOTALL)
    known: dict[str, object] = {}
    with contextlib.chdir(workspace.root):
        exec(snippet, known)
    assert known["model"].num_parameters() > 0 and "tools" in known["processor"].chat_template  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Qwen/Qwen3-VL-8B-Instruct", "tiny"])
def test_card_names_base_model(workspace: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / "tiny").unlink()
    card.write(tmp_path, "sft", params(workspace).model_copy(update=_train(workspace, model=name)), workspace, FIGURES)
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.base_model == (None if name == "tiny" else name)
    assert _rows(found.text)["loss"] == ["0.1235"]
    assert ("cannot inspect" in found.text) == (name == "tiny")
    assert ("randomly initialised" in found.text) == (name == "tiny")


def test_grpo_card_names_original_base_model(workspace: Workspace, tmp_path: Path) -> None:
    workspace.sft.mkdir(parents=True)
    (workspace.sft / "manifest.json").write_text('{"params": {"train": {"model": "Qwen/Qwen3-VL-8B-Instruct"}}}')
    figures = {"steps": 9, "first": {"reward": -0.5, "kl": None}, "last": {"reward": 1.25, "kl": 0.0}}
    card.write(tmp_path, "grpo", params(workspace), workspace, figures)
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.base_model == "Qwen/Qwen3-VL-8B-Instruct"
    rows = _rows(found.text)
    assert (rows["reward"], rows["kl"], rows["steps"]) == (["-0.5", "1.25"], ["–", "0"], ["", "9"])
    assert rows["`grpo.reward.alpha`"] == ["0.8"] and "then stage `sft`" in rows["base model"][0]


def test_card_names_all_known_stages(workspace: Workspace, tmp_path: Path) -> None:
    first = _manifest(
        workspace.sft, {"train": {"model": "Qwen/Qwen3-VL-8B-Instruct"}}, model="Qwen/Qwen3-VL-8B-Instruct"
    )
    _manifest(workspace.models / "first", {"grpo": {"model": "models/sft"}, "train": {"lora_rank": 0}}, model=first)
    settings = params(workspace)
    settings = settings.model_copy(update={"grpo": settings.grpo.model_copy(update={"model": "models/first"})})

    def began() -> tuple[str | None, str]:
        card.write(tmp_path, "grpo", settings, workspace, FIGURES)
        found = ModelCard.load(tmp_path / "README.md")
        return found.data.base_model, _rows(found.text)["base model"][0]

    base, words = began()
    assert base == "Qwen/Qwen3-VL-8B-Instruct" and words.endswith("then stages `sft` and `grpo` of this project")
    # The start model was trained again since, so the card must not describe the new one.
    _manifest(workspace.sft, {"train": {"model": "tiny"}}, model="tiny")
    assert began() == (None, "`sft`, then stage `grpo` of this project")
    shutil.rmtree(workspace.sft)
    assert began() == (None, "`sft`, then stage `grpo` of this project")


def _manifest(folder: Path, parameters: dict[str, object], **inputs: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"params": parameters, "inputs": inputs}))
    return file_hash(folder / "manifest.json")


def test_control_arm_card_omits_tools(workspace: Workspace, tmp_path: Path) -> None:
    card.write(tmp_path, "sft", params(workspace, target="labels"), workspace, FIGURES)
    text = (tmp_path / "README.md").read_text()
    assert "the control arm" in text and "tool_schemas" not in text


def test_card_names_noncommercial_data(workspace: Workspace, trainable: Workspace, tmp_path: Path) -> None:
    workspace.indus_cot.unlink()
    shutil.copytree(trainable.indus_cot, workspace.indus_cot)
    path = next(workspace.indus_cot.glob("data/train-*.parquet"))
    pl.read_parquet(path).with_columns(pl.lit("CC BY-NC-SA 4.0").alias("licence")).write_parquet(path)
    card.write(tmp_path, "sft", params(workspace), workspace, FIGURES)
    text = (tmp_path / "README.md").read_text()
    assert "CC BY-NC-SA 4.0" in text and "may not be used commercially" in text


def _train(workspace: Workspace, **changed: object) -> dict[str, object]:
    return {"train": params(workspace).train.model_copy(update=changed)}
