"""Stage `grpo` on a tiny policy that calls a tool."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.storage.output import Output
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from tests.small_policy import params
from train import corpus
from train.grpo import CHECKPOINTS, build, check_groups, grpo, print_plan, prompts
from train.model import load_model, load_processor

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def workspace(policy: Path, tmp_path: Path) -> Workspace:
    """The small corpus, to be written beside."""
    shutil.copytree(policy / "data", tmp_path / "data")
    return Workspace(tmp_path)


def _trainer(policy: Path, folder: Path, **changed: Any) -> Any:
    model = policy / "fitted"
    processor = load_processor(str(model))
    rows, truth = prompts(corpus.read(policy / "data" / "indus_cot")["train"], processor, 4096, Output(folder))
    return build(params(model, **changed), str(model), processor, rows, truth, {("bolt", "C1"): "Even."}, folder)


def _batches(trainer: Any) -> list[dict[str, Any]]:
    """Train, and return what the loss was computed on."""
    seen: list[dict[str, Any]] = []
    compute = trainer.compute_loss

    def noted(model: Any, inputs: Any, **options: Any) -> Any:
        seen.append(dict(inputs))
        return compute(model, inputs, **options)

    trainer.compute_loss = noted
    trainer.train()
    return seen


@pytest.mark.parametrize(
    ("processes", "batch", "accumulation", "group", "fits"),
    [(1, 4, 1, 4, True), (1, 2, 2, 4, True), (4, 1, 2, 4, True), (1, 3, 1, 4, False), (2, 1, 1, 4, False)],
)
def test_a_group_must_divide_the_batch(processes: int, batch: int, accumulation: int, group: int, fits: bool) -> None:
    chosen = params(Path("m"), batch=batch, accumulation=accumulation, group=group)
    if fits:
        check_groups(chosen, processes)
    else:
        with pytest.raises(IndusCotError, match="multiple of"):
            check_groups(chosen, processes)


def test_the_plan_is_told_before_anything_is_loaded(policy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(policy / "fitted", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = {"steps": None, "batch": 2, "accumulation": 4, "group": 4, "max_completion": 300}
    found = print_plan(params(bare, **settings), Workspace(policy))
    rows = len(corpus.read(policy / "data" / "indus_cot")["train"])
    assert (found.rows, found.refused, found.effective_batch, found.steps) == (rows, 0, 8, rows // 2)
    weights = sum(weight.numel() for weight in load_model(str(policy / "fitted")).parameters())
    assert found.parameters == found.trained == weights
    assert found.weights == found.reference == 4 * weights and found.optimiser == 12 * weights
    assert found.tokens == round(found.steps * 8 * (found.mean_tokens + 300))
    # Keys and values: two layers, two heads of 32, in 32 bit.
    assert found.cache == 2 * (found.longest + 300) * 2 * 2 * 2 * 32 * 4
    for text in (
        "x 4 accumulated: 2 prompts x 4 completions",
        f"{rows}, 0 more left out",
        "by transformers, at most 5 turns",
    ):
        assert text in str(found)
    assert print_plan(params(bare, **settings, kl=0.0), Workspace(policy)).reference == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    four = print_plan(params(bare, **settings), Workspace(policy))
    assert (four.effective_batch, four.steps, four.weights) == (32, rows // 8, weights)
    assert not (policy / "models").exists()


def test_a_plan_before_sft_counts_the_model_that_sft_begins_from(policy: Path) -> None:
    found = print_plan(params(Path("models/sft")), Workspace(policy))
    assert "models/sft (not there yet; counted as tiny)" in str(found) and found.parameters > 1e6


def test_a_plan_counts_the_steps_that_are_taken(policy: Path, tmp_path: Path) -> None:
    settings = {"steps": None, "epochs": 0.1, "max_completion": 40}
    due = print_plan(params(policy / "fitted", **settings), Workspace(policy)).steps
    trainer = _trainer(policy, tmp_path, **settings)
    trainer.train()
    assert trainer.state.global_step == due > 1


@pytest.mark.parametrize(
    ("changed", "words"), [({"group": 3}, "no multiple of grpo.group 3"), ({"batch": 400}, "an update takes 100 ")]
)
def test_a_batch_that_no_group_or_no_corpus_fills_is_refused_before_anything_is_loaded(
    workspace: Workspace, policy: Path, changed: dict[str, int], words: str
) -> None:
    chosen = params(policy / "fitted", **changed)
    for run in (print_plan, grpo):
        with pytest.raises(IndusCotError, match=words):
            run(chosen, workspace)
    assert not workspace.grpo.exists()


def test_rollouts_by_vllm_without_vllm_are_refused_with_what_to_do(workspace: Workspace, policy: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(IndusCotError, match="vllm-server needs vLLM, which is not installed: `pip install vllm`, or"):
        grpo(params(policy / "fitted", rollouts="vllm-server"), workspace)


def test_the_trainer_is_given_no_truth_and_long_prompts_are_named(policy: Path, tmp_path: Path) -> None:
    processor = load_processor(str(policy / "raw"))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    output = Output(tmp_path)
    rows, truth = prompts(found, processor, 4096, output)
    assert set(rows[0]) == {"id", "prompt", "image"}
    assert set(truth) == set(found.with_format(None)["id"])
    assert not output.left_out
    with pytest.raises(IndusCotError, match="max_prompt"):
        prompts(found, processor, 10, output)
    assert len(output.left_out) == len(found)


def test_prompts_are_those_of_the_corpus_and_observations_bear_no_loss(policy: Path, tmp_path: Path) -> None:
    trainer = _trainer(policy, tmp_path, steps=1)
    (batch,) = _batches(trainer)
    tokens = trainer.processing_class.tokenizer
    rendered = {
        tokens.decode(ids[mask.bool()]).replace("<|image_pad|>", "")
        for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    }
    due = {
        trainer.processing_class.apply_chat_template(
            row["prompt"], tools=tool_schemas(), add_generation_prompt=True, tokenize=False
        ).replace("<|image_pad|>", "")
        for row in trainer.train_dataset
    }
    assert rendered <= due
    written, observed = "", ""
    for ids, whole, kept in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"], strict=True):
        written += tokens.decode(ids[(whole * kept).bool()])
        observed += tokens.decode(ids[(whole * (1 - kept)).bool()])
    assert "Crop of [250, 250, 750, 750]" in observed
    assert "<tool_response>" in observed
    assert "<think>" not in observed
    assert "<tool_response>" not in written
    assert "Crop of" not in written
    assert "<|image_pad|>" not in written
    assert '<tool_call>\n{"name": "crop"' in written


def test_an_observation_that_does_not_fit_ends_the_inspection_without_a_reward(policy: Path, tmp_path: Path) -> None:
    trainer = _trainer(policy, tmp_path, steps=1, max_completion=100)
    trainer.train()
    (kept,) = (tmp_path / "rollouts").glob("*.json")
    shown = json.loads(kept.read_text())["rollouts"]
    called = [item for item in shown if any(turn["calls"] for turn in item["turns"])]
    assert called
    for item in called:
        assert [turn["role"] for turn in item["turns"]] == ["user", "assistant"]
        assert item["terms"]["reward"] == -0.5
        assert item["terms"]["tool"] == 0


def test_a_run_leaves_a_model_figures_a_curve_and_a_page(workspace: Workspace, policy: Path) -> None:
    chosen = params(policy / "fitted", steps=2)
    grpo(chosen, workspace)
    load_processor(str(workspace.grpo))
    assert torch.isfinite(next(load_model(str(workspace.grpo)).parameters())).all()
    assert not (workspace.grpo / CHECKPOINTS).exists()
    figures = json.loads((workspace.reports / "grpo.json").read_text())
    assert figures["steps"] == 2
    assert figures["last"]["tool_calls"] > 0
    assert figures["last"]["valid"] > 0
    curve = (workspace.reports / "grpo" / "curve.csv").read_text().splitlines()
    assert len(curve) == 3
    assert {"step", "reward", "kl", "valid", "tool_calls", "confidence_gain"} <= set(curve[0].split(","))
    page = (workspace.reports / "grpo" / "rollouts.html").read_text()
    assert page.count("<article>") == 8
    assert "data:image/jpeg;base64," in page
    assert "http" not in page
    assert "| figure | first quarter | last quarter |" in (workspace.grpo / "README.md").read_text()


def test_a_resumed_run_has_the_same_curve(policy: Path, tmp_path: Path) -> None:
    through = _trainer(policy, tmp_path / "a")
    through.train()
    again = _trainer(policy, tmp_path / "b")
    again.train(resume_from_checkpoint=str(tmp_path / "a" / CHECKPOINTS / "checkpoint-2"))
    first, second = ([log for log in trainer.state.log_history if "reward" in log][-1] for trainer in (through, again))
    same = ("step", "loss", "reward", "grad_norm", "kl", "entropy", "completions/mean_length", "valid")
    assert {name: first[name] for name in same} == pytest.approx({name: second[name] for name in same})
    weights = zip(through.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.allclose(one, other) for one, other in weights)


def test_two_processes_make_as_many_passes_and_end_with_equal_weights(policy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    worker = Path(__file__).with_name("grpo_worker.py")
    ran = subprocess.run(
        [*command, str(worker), str(policy), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert one["world"] == two["world"] == 2
    assert one["margin_passes"] == two["margin_passes"] > 0
    assert one["generations"] == two["generations"]
    # Without company one of the ranks would have turned less often.
    assert one["own_turns"] != two["own_turns"]
    assert one["weights"] == two["weights"]
    assert one["moved"]
