"""Tests `grpo` before it loads a model: refused settings, the plan, and how a batch is divided."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from tests.helpers.reinforcement import make_trainer
from tests.helpers.small_policy import params
from train import corpus
from train.grpo import check_settings, grpo, make_plan, max_groups_per_rank
from train.model import load_model
from train.sft import sft


@pytest.mark.parametrize(
    ("processes", "batch", "accumulation", "group", "fits"),
    [(1, 4, 1, 4, True), (1, 2, 2, 4, True), (4, 1, 2, 4, True), (1, 3, 1, 4, False), (2, 1, 1, 4, False)],
)
def test_group_must_divide_batch(processes: int, batch: int, accumulation: int, group: int, fits: bool) -> None:
    chosen = params(Path("m"), batch=batch, accumulation=accumulation, group=group)
    if fits:
        check_settings(chosen, processes)
    else:
        with pytest.raises(IndusCotError, match="multiple of"):
            check_settings(chosen, processes)


@pytest.mark.parametrize(
    ("train", "changed", "processes", "words"),
    [
        ({}, {"rollouts": "vllm-server"}, 2, "vllm-server with 2 processes: .* set grpo.rollouts=vllm-colocate"),
        ({"target": "labels"}, {}, 1, "train.target is labels, the control arm"),
    ],
)
def test_misleading_settings_are_refused(
    train: dict[str, Any], changed: dict[str, Any], processes: int, words: str
) -> None:
    with pytest.raises(IndusCotError, match=words):
        check_settings(params(Path("m"), train, **changed), processes)


def test_gpus_without_launcher_are_refused(workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    # As in the paper's profile, the group divides the batch of four processes, but not that of one.
    chosen = params(policy / "fitted", {"model": str(policy / "fitted")}, batch=1, accumulation=2, group=4)
    for stage in (sft, grpo):
        message = rf"{stage.__name__}: 4 GPUs are visible, .*accelerate launch .* --profile paper {stage.__name__}`"
        with pytest.raises(IndusCotError, match=message):
            stage(chosen, workspace)
    assert not workspace.models.exists()


def test_plan_needs_no_weights(policy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(policy / "fitted", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = {"steps": None, "batch": 2, "accumulation": 4, "group": 4, "max_completion": 300}
    found = make_plan(params(bare, **settings), Workspace(policy))
    rows = len(corpus.read(policy / "data" / "indus_cot")["train"])
    assert (found.rows, found.refused, found.effective_batch, found.steps) == (rows, 0, 8, rows // 2)
    weights = sum(weight.numel() for weight in load_model(str(policy / "fitted")).parameters())
    assert found.parameters == found.trained == weights
    assert found.weights == found.reference == 4 * weights and found.optimiser == 12 * weights
    assert found.tokens == round(found.steps * 8 * (found.mean_tokens + 300))
    text = json.loads((bare / "config.json").read_text())["text_config"]
    values = text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"]
    # One key and one value per position, in 32 bit.
    assert found.cache == 2 * (found.longest + 300) * 2 * values * 4
    for text in (
        "x 4 accumulated: 2 prompts x 4 completions",
        f"{rows}, 0 more left out",
        "by transformers, at most 5 turns",
    ):
        assert text in str(found)
    assert make_plan(params(bare, **settings, kl=0.0), Workspace(policy)).reference == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    four = make_plan(params(bare, **settings), Workspace(policy))
    assert (four.effective_batch, four.steps, four.weights) == (32, rows // 8, weights)
    # ZeRO-3 gathers all weights on every device before the first token, here in 32 bit.
    assert (found.gathered, four.gathered) == (0, 4 * weights) and "weights gathered to generate" in str(four)
    assert four.memory == four.weights + four.reference + four.optimiser + max(
        four.activations, four.cache + 4 * weights
    )
    assert make_plan(params(bare, **settings, rollouts="vllm-colocate"), Workspace(policy)).gathered == 0
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert make_plan(params(bare, **settings), Workspace(policy)).gathered == 0
    assert not (policy / "models").exists()


def test_plan_before_sft_uses_base_model(policy: Path) -> None:
    found = make_plan(params(Path("models/sft")), Workspace(policy))
    assert "models/sft (not there yet; counted as tiny)" in str(found) and found.parameters > 1e6


def test_plan_counts_actual_steps(policy: Path, tmp_path: Path) -> None:
    settings = {"steps": None, "epochs": 0.1, "max_completion": 40}
    due = make_plan(params(policy / "fitted", **settings), Workspace(policy)).steps
    trainer = make_trainer(policy, tmp_path, **settings)
    trainer.train()
    assert trainer.state.global_step == due > 1


@pytest.mark.parametrize(
    ("changed", "words"), [({"group": 3}, "no multiple of grpo.group 3"), ({"batch": 400}, "an update takes 100 ")]
)
def test_batch_that_cannot_be_filled_is_refused(
    workspace: Workspace, policy: Path, changed: dict[str, int], words: str
) -> None:
    chosen = params(policy / "fitted", **changed)
    for run in (make_plan, grpo):
        with pytest.raises(IndusCotError, match=words):
            run(chosen, workspace)
    assert not workspace.grpo.exists()


def test_missing_vllm_is_refused(workspace: Workspace, policy: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(IndusCotError, match="vllm-server needs vLLM, which is not installed: `pip install vllm`, or"):
        grpo(params(policy / "fitted", rollouts="vllm-server"), workspace)


@pytest.mark.parametrize(
    ("completions", "group", "processes", "due"), [(4, 4, 1, 1), (8, 4, 1, 2), (2, 4, 2, 1), (3, 4, 4, 2), (3, 2, 2, 2)]
)
def test_max_groups_per_rank(completions: int, group: int, processes: int, due: int) -> None:
    prompt = [place // group for place in range(completions * processes)]
    held = [len(set(prompt[start : start + completions])) for start in range(0, len(prompt), completions)]
    assert max_groups_per_rank(completions, group, processes) == max(held) == due


def test_indivisible_batch_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(
        IndusCotError, match=r"grpo\.batch 3 .* = 3 completions an update, no multiple of grpo\.group 4"
    ):
        grpo(params(tmp_path / "no model", batch=3), Workspace(tmp_path))
    assert not list(tmp_path.iterdir())
