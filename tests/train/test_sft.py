"""Tests the stage `sft`: it learns, resumes after a kill, and reports errors."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from tests.helpers.faults import before_a_pass, no_memory, not_a_number
from tests.helpers.paths import ROOT
from tests.helpers.training_project import change_manifest, params
from train import corpus, guard
from train.model import load_model, load_policy, load_processor
from train.sft import make_plan, sft

pytestmark = pytest.mark.train

KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
from tests.helpers.training_project import params
from cot_builder.storage.workspace import Workspace
from train.sft import sft

torch.set_num_threads(1)
save = torch.save

def killed_in_the_second_checkpoint(value, file, *arguments, **options):
    if str(file).endswith(os.path.join("checkpoint-2", "optimizer.pt")):
        Path(file).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, file, *arguments, **options)

torch.save = killed_in_the_second_checkpoint
workspace = Workspace(Path({root!r}))
sft(params(workspace, {settings!r}, lora_rank={rank}), workspace)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(trainable: Workspace, tmp_path: Path) -> Workspace:
    """The corpus and the model of all tests, in a project of its own."""
    (tmp_path / "data").mkdir()
    for name in ("data/indus_cot", "tiny"):
        (tmp_path / name).symlink_to(trainable.root / name)
    return Workspace(tmp_path)


def curve(workspace: Workspace) -> list[dict[str, str]]:
    with (workspace.reports / "sft" / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_sft_learns_and_writes_loadable_model(workspace: Workspace) -> None:
    lengths = _lengths(workspace)
    limit = sorted(lengths.values())[-4]
    settings = params(workspace, {"steps": 24, "log_steps": 2, "save_steps": 100}, max_tokens=limit)
    sft(settings, workspace)

    found = json.loads((workspace.reports / "sft.json").read_text())
    assert found["loss"] < found["loss_first"] - 1
    assert found["validation_loss"] < found["loss_first"] - 1
    assert found["tokens_per_s"] > 0
    steps = curve(workspace)
    assert [int(row["step"]) for row in steps] == list(range(2, 25, 2))
    assert float(steps[-1]["loss"]) < float(steps[0]["loss"]) - 1
    assert all(float(row["learning_rate"]) >= 0 and float(row["tokens_per_s"]) > 0 for row in steps)

    too_long = {name: length for name, length in lengths.items() if length > limit}
    assert len(too_long) == 3
    with (workspace.sft / "left_out.csv").open() as file:
        left_out = list(csv.DictReader(file))
    assert {row["item"]: row["detail"] for row in left_out} == {k: f"{v} tokens" for k, v in too_long.items()}
    manifest = read_manifest(workspace.sft)
    assert manifest["counts"]["refused"] == 3
    assert manifest["params"]["train"]["max_tokens"] == limit
    assert set(manifest["inputs"]) >= {"train-00000.parquet", "model.safetensors", "torch", "trl"}
    assert manifest["inputs"]["model"] == str(workspace.root / "tiny") and manifest["params"]["processes"] == 1
    _goes_on_from_another_folder_alone(workspace)

    files = {path.name for path in workspace.sft.iterdir()}
    assert files >= {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "manifest.json"}
    assert not files & {"checkpoints", "base", "adapters", "training_args.bin"}
    assert (
        load_processor(str(workspace.sft)).chat_template == load_processor(str(workspace.root / "tiny")).chat_template
    )
    before, after = (load_model(str(path)).state_dict() for path in (workspace.root / "tiny", workspace.sft))
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("q_proj.weight"))


def _goes_on_from_another_folder_alone(workspace: Workspace) -> None:
    digest = file_hash(workspace.sft / "manifest.json")
    with pytest.raises(
        IndusCotError, match=r"train\.model: models/sft is the folder that this stage writes; .* copy it"
    ):
        sft(params(workspace, model="models/sft"), workspace)
    assert file_hash(workspace.sft / "manifest.json") == digest
    # Continuing from a copy works; the manifest keeps the hash of the start model's manifest.
    shutil.copytree(workspace.sft, workspace.models / "first")
    sft(params(workspace, {"steps": 1}, model="models/first"), workspace)
    assert read_manifest(workspace.sft)["inputs"]["model"] == digest


def _lengths(workspace: Workspace) -> dict[str, int]:
    from train.collator import count_tokens

    processor = load_processor(str(workspace.root / "tiny"))
    found = {}
    for rows in corpus.read(workspace.indus_cot).values():
        found |= dict(zip(rows.with_format(None)["id"], count_tokens(rows, processor), strict=True))
    return found


def test_limit_below_all_trajectories_is_refused(workspace: Workspace) -> None:
    shortest = min(_lengths(workspace).values())
    with pytest.raises(IndusCotError, match=rf"longer than train\.max_tokens, 50; the shortest has {shortest} tokens"):
        sft(params(workspace, max_tokens=50), workspace)
    assert not workspace.sft.exists()


def test_adapters_are_merged(workspace: Workspace) -> None:
    sft(params(workspace, {"steps": 2}, lora_rank=4), workspace)
    before, after = (load_file(path / "model.safetensors") for path in (workspace.root / "tiny", workspace.sft))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.endswith("q_proj.weight") for name in changed)
    assert all("language_model" in name and "_proj" in name for name in changed)
    assert len(changed) == 2 * 7


def test_control_arm_trains_on_verdict_only(workspace: Workspace) -> None:
    sft(params(workspace, {"steps": 1, "log_steps": 10}, target="labels"), workspace)
    assert float(curve(workspace)[0]["num_tokens"]) < min(_lengths(workspace).values())


def test_stage_builds_tiny_model(workspace: Workspace) -> None:
    sft(params(workspace, {"steps": 1}, model="tiny"), workspace)
    made = load_processor(str(workspace.sft)).tokenizer
    assert len(made.tokenize(" defect")) == 1
    assert sum(weight.numel() for weight in load_model(str(workspace.sft)).parameters()) < 3e6


@pytest.mark.parametrize("rank", [0, 4], ids=["every weight", "adapters"])
def test_killed_run_resumes_with_same_losses(
    workspace: Workspace, trainable: Workspace, tmp_path: Path, rank: int
) -> None:
    settings = {"steps": 3, "save_steps": 1}
    script = KILLED_WHILE_SAVING.format(
        paths=[str(ROOT), str(ROOT / "tests")], root=str(workspace.root), settings=settings, rank=rank
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not workspace.sft.exists()
    checkpoints = workspace.models / ".sft.partial" / "checkpoints"
    assert (checkpoints / "checkpoint-2" / "optimizer.pt").read_bytes() == b"half"
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    # Mark the history of the complete checkpoint, to see whether the run resumes from it.
    state = json.loads((checkpoints / "checkpoint-1" / "trainer_state.json").read_text())
    state["log_history"][0]["grad_norm"] = 123.0
    (checkpoints / "checkpoint-1" / "trainer_state.json").write_text(json.dumps(state))
    sft(params(workspace, settings, lora_rank=rank), workspace)
    resumed = curve(workspace)
    assert float(resumed[0].pop("grad_norm")) == 123.0

    whole = Workspace(tmp_path / "whole")
    (whole.root / "data").mkdir(parents=True)
    (whole.root / "data" / "indus_cot").symlink_to(trainable.indus_cot)
    sft(params(trainable, settings, lora_rank=rank), whole)
    uninterrupted = curve(whole)
    uninterrupted[0].pop("grad_norm")
    assert [_without_time(row) for row in resumed] == [_without_time(row) for row in uninterrupted]
    first, second = (load_file(space.sft / "model.safetensors") for space in (workspace, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _without_time(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != "tokens_per_s"}


def test_nan_loss_keeps_last_checkpoint(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before_a_pass(monkeypatch, not_a_number(3))
    with pytest.raises(IndusCotError, match=r"step 3: the loss is not a number .*checkpoint-2\. Lower the learning"):
        sft(params(workspace, {"save_steps": 1}), workspace)
    assert not workspace.sft.exists()
    kept = guard.find_last_checkpoint(workspace.models / ".sft.partial" / "checkpoints")
    assert kept is not None and kept.name == "checkpoint-2"
    assert all(torch.isfinite(weight).all() for weight in load_file(kept / "model.safetensors").values())


def test_nan_gradients_are_not_applied(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before, steps = load_policy, 0

    def spoilt(*arguments: Any) -> Any:
        model = before(*arguments)

        def third(gradient: torch.Tensor) -> torch.Tensor:
            nonlocal steps
            steps += 1
            return gradient * float("nan") if steps == 3 else gradient

        next(weight for weight in model.parameters() if weight.requires_grad).register_hook(third)
        return model

    monkeypatch.setattr("train.sft.load_policy", spoilt)
    with pytest.raises(IndusCotError, match=r"step 3: the gradients are not a number .*checkpoint-2\. Lower"):
        sft(params(workspace, {"save_steps": 1}), workspace)


def test_infinite_weights_are_not_saved(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    step = AcceleratedOptimizer.step

    def overflows(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        if next(iter(self.optimizer.state.values()))["step"] == 2:
            self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(AcceleratedOptimizer, "step", overflows)
    with pytest.raises(IndusCotError, match=r"step 2: the weights are not a number .*checkpoint-1\. Lower"):
        sft(params(workspace, {"save_steps": 1}), workspace)


def test_out_of_memory_names_parameters(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        before_a_pass(patch, no_memory)
        message = r"out of memory .*Lower sft\.batch and raise sft\.accumulation .* lower train\.max_tokens"
        with pytest.raises(IndusCotError, match=message):
            sft(params(workspace), workspace)
    assert not workspace.sft.exists()
    with pytest.raises(RuntimeError, match="inconsistent tensor size"), guard.explain_out_of_memory("sft"):
        torch.ones(2) @ torch.ones(3)


def test_invalid_corpus_or_model_is_refused(workspace: Workspace, trainable: Workspace) -> None:
    (workspace.root / "empty").mkdir()
    with pytest.raises(IndusCotError, match="empty: this folder cannot be loaded"):
        sft(params(workspace, model=str(workspace.root / "empty")), workspace)
    workspace.indus_cot.unlink()
    shutil.copytree(trainable.indus_cot, workspace.indus_cot)
    change_manifest(workspace.indus_cot, stage="draft")
    with pytest.raises(IndusCotError, match="not from assemble, which validates a corpus"):
        sft(params(workspace), workspace)
    assert not workspace.sft.exists()


def test_plan_needs_no_weights(workspace: Workspace, trainable: Workspace) -> None:
    (workspace.root / "tiny").unlink()
    shutil.copytree(trainable.root / "tiny", workspace.root / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    lengths = _lengths(workspace)
    rows = read_manifest(workspace.indus_cot)["counts"]["train"]
    settings = {"batch": 2, "accumulation": 3, "steps": None, "epochs": 2}
    found = make_plan(params(workspace, settings), workspace)
    assert found.effective_batch == 6
    assert found.rows == rows and found.refused == 0
    assert found.steps == 2 * math.ceil(math.ceil(rows / 2) / 3)
    assert found.longest <= max(lengths.values()) and min(lengths.values()) < found.mean_tokens < found.longest
    weights = load_file(trainable.root / "tiny" / "model.safetensors")
    assert found.parameters == found.trained == sum(weight.numel() for weight in weights.values())
    assert found.weights == 4 * found.parameters and found.optimiser == 12 * found.parameters
    adapted = make_plan(params(workspace, settings, lora_rank=4, gradient_checkpointing=True), workspace)
    assert adapted.trained < found.trained / 20 and adapted.activations < found.activations
    longest = sorted(lengths.values())[-4]
    few = make_plan(params(workspace, settings, max_tokens=longest), workspace)
    assert (few.rows, few.refused) == (rows - _refused(workspace, longest), _refused(workspace, longest))
    for text in ("effective batch  6 = ", "memory a device", f"trajectories     {rows}, 0 more refused"):
        assert text in str(found)
    assert not workspace.models.exists()


def _refused(workspace: Workspace, limit: int) -> int:
    """Count the training rows that are longer than ``limit``; validation rows do not count as refused."""
    trained = corpus.read(workspace.indus_cot)["train"].with_format(None)["id"]
    lengths = _lengths(workspace)
    return sum(lengths[name] > limit for name in trained)


@pytest.mark.parametrize(("harm", "message"), [("text", "reads only text"), ("weights", "cannot be loaded")])
def test_unusable_model_is_refused(
    workspace: Workspace, trainable: Workspace, tmp_path: Path, harm: str, message: str
) -> None:
    model = tmp_path / harm
    shutil.copytree(trainable.root / "tiny", model)
    if harm == "text":
        from transformers import PreTrainedTokenizerFast

        tokenizer = load_processor(str(model)).tokenizer
        shutil.rmtree(model)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(model)
        (model / "config.json").write_text('{"model_type": "qwen2"}')
    else:
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(IndusCotError, match=f"{harm}: .*{message}"):
        sft(params(workspace, model=str(model)), workspace)
    assert not workspace.sft.exists()
