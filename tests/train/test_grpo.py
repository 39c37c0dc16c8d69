"""Tests runs of `grpo` on a small policy that calls a tool."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cot_builder.storage.output import Output, read_manifest
from cot_builder.storage.workspace import Workspace, file_hash
from eval.report.rollouts import write_rollouts
from schemas.errors import IndusCotError
from tests.helpers.faults import before_a_pass, no_memory, not_a_number
from tests.helpers.paths import ROOT
from tests.helpers.reinforcement import last_log, link_project, make_trainer
from tests.helpers.small_policy import UNDECIDED, fit, make_guesses, params
from train import card, corpus
from train.grpo import CHECKPOINTS, build_trainer, grpo, select_prompts
from train.guard import find_last_checkpoint
from train.model import load_model, load_processor
from train.truth import read_truth

torch.set_num_threads(1)
TERMS = {
    "accuracy_reward": None,
    "location_reward": "alpha",
    "type_reward": "beta",
    "tool_reward": "gamma",
    "format_reward": "format_penalty",
}
"""Maps each term's name in TRL's log to its weight parameter."""


@pytest.fixture(scope="module")
def trained(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after three steps."""
    workspace = link_project(policy, tmp_path_factory.mktemp("trained"))
    grpo(params(policy / "fitted"), workspace, write_rollouts)
    return workspace


@pytest.mark.parametrize("left_out", TERMS)
def test_zero_weight_removes_term(policy: Path, tmp_path: Path, left_out: str) -> None:
    weights = params(policy).grpo.reward
    if name := TERMS[left_out]:
        weights = weights | {name: 0.0}
    trainer = make_trainer(policy, tmp_path, steps=1, batch=2, group=2, reward=weights)
    trainer.train()
    log = last_log(trainer)
    kept = {term: weights[name] if name else 1.0 for term, name in TERMS.items()}
    if name:
        del kept[left_out]
    assert {entry.split("/")[1] for entry in log if entry.startswith("rewards/")} == set(kept)
    assert log["reward"] == pytest.approx(
        sum(log[f"rewards/{term}/mean"] * worth for term, worth in kept.items()), abs=1e-5
    )
    assert ("confidence_gain" in log) == ("tool_reward" in kept)


def test_run_writes_all_outputs(trained: Workspace) -> None:
    load_processor(str(trained.grpo))
    assert torch.isfinite(next(load_model(str(trained.grpo)).parameters())).all()
    assert not (trained.grpo / CHECKPOINTS).exists()
    figures = json.loads((trained.reports / "grpo.json").read_text())
    assert figures["steps"] == 3
    assert figures["last"]["tool_calls"] > 0
    assert figures["last"]["valid"] > 0
    curve = _curve(trained)
    assert len(curve) == 3
    assert {"step", "reward", "kl", "valid", "tool_calls", "confidence_gain"} <= set(curve[0])
    assert _plotted() <= set(curve[0])
    drawn = {path.stem: path.read_text().count("\n") for path in (trained.reports / "grpo" / "terms").iterdir()}
    assert drawn == {name.removesuffix("_reward"): 1 + 3 for name in TERMS}
    page = (trained.reports / "grpo" / "rollouts.html").read_text()
    assert page.count('<article class="rollout">') == 12
    assert "data:image/jpeg;base64," in page
    assert "http:" not in page and "https:" not in page
    assert "| figure | first quarter | last quarter |" in (trained.grpo / "README.md").read_text()


def _plotted() -> set[str]:
    """Columns of GRPO's curve that dvc.yaml plots."""
    plots = [plot for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] for plot in entry.values()]
    columns = [plot["y"]["reports/grpo/curve.csv"] for plot in plots if "reports/grpo/curve.csv" in plot["y"]]
    return {name for found in columns for name in ([found] if isinstance(found, str) else found)}


def test_grpo_continues_from_a_copy(workspace: Workspace, trained: Workspace) -> None:
    shutil.copytree(trained.grpo, workspace.models / "first")
    none = params(Path()).grpo.reward | {"gamma": 0.0}
    grpo(params(Path("models/first"), steps=1, batch=2, group=2, kl=0.0, reward=none), workspace)
    began = (workspace.grpo / "README.md").read_text()
    assert "| base model | `fitted`, then stage `grpo` of this project |" in began
    assert _plotted() <= set(_curve(workspace)[0])
    manifest = read_manifest(workspace.grpo)
    assert manifest["inputs"]["model"] == file_hash(trained.grpo / "manifest.json")
    assert {"torch", "transformers", "trl", "peft", "supervision"} <= manifest["inputs"].keys()
    assert manifest["params"]["draft"]["max_calls"] > 0 and manifest["params"]["processes"] == 1
    before = file_hash(workspace.grpo / "manifest.json")
    with pytest.raises(
        IndusCotError, match=r"grpo\.model: models/grpo is the folder that this stage writes; .* copy it"
    ):
        grpo(params(Path("models/grpo")), workspace)
    assert file_hash(workspace.grpo / "manifest.json") == before


def test_failed_card_keeps_checkpoint(workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise IndusCotError("no card")

    monkeypatch.setattr(card, "write", fails)
    with pytest.raises(IndusCotError, match="no card"):
        grpo(params(policy / "fitted", steps=1, batch=2, group=2), workspace)
    assert find_last_checkpoint(workspace.models / ".grpo.partial" / CHECKPOINTS) is not None


def test_fsdp_ranks_generate_in_step(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # FSDP itself is not tested. This is the flag that transformers reads before it generates.
    from transformers.distributed.fsdp import is_fsdp_managed_module
    from trl import GRPOTrainer

    trainer, asked = make_trainer(policy, tmp_path), list[bool]()

    def turn(self: Any, *_: Any, **__: Any) -> None:
        asked.append(is_fsdp_managed_module(self.model))

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", turn)
    for trainer.is_fsdp_enabled in (False, True):
        trainer._generate_single_turn()
    assert asked == [False, True]


def _curve(workspace: Workspace) -> list[dict[str, str]]:
    """Read the curve without its time columns."""
    with (workspace.reports / "grpo" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if not ("time" in name or name.endswith("_per_s"))} for row in rows
    ]


def test_nan_loss_stops_and_run_resumes(
    workspace: Workspace, trained: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params(policy / "fitted")
    with monkeypatch.context() as patch:
        before_a_pass(patch, not_a_number(3))
        with pytest.raises(IndusCotError, match=r"step 3: the loss is not a number .*checkpoint-2\. Lower"):
            grpo(settings, workspace, write_rollouts)
    assert not workspace.grpo.exists()
    # The page is written during the training, so it shows the finished steps.
    assert (workspace.reports / "grpo" / "rollouts.html").read_text().count("<details") == 2
    kept = find_last_checkpoint(workspace.models / ".grpo.partial" / CHECKPOINTS)
    assert kept is not None and kept.name == "checkpoint-2"
    assert all(torch.isfinite(weight).all() for weight in load_file(kept / "model.safetensors").values())

    # A mark in the checkpoint's history shows whether the run goes on from there.
    state = json.loads((kept / "trainer_state.json").read_text())
    state["log_history"][0]["grad_norm"] = 123.0
    (kept / "trainer_state.json").write_text(json.dumps(state))
    grpo(settings, workspace)
    resumed, through = _curve(workspace), _curve(trained)
    assert float(resumed[0].pop("grad_norm")) == 123.0
    through[0].pop("grad_norm")
    assert resumed == through
    one, other = (load_file(space.grpo / "model.safetensors") for space in (workspace, trained))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_out_of_memory_names_parameters(workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_a_pass(monkeypatch, no_memory)
    message = (
        r"out of memory .*Lower grpo\.batch and raise grpo\.accum.* lower grpo\.margin_batch.*cot grpo --print-plan"
    )
    with pytest.raises(IndusCotError, match=message):
        grpo(params(policy / "fitted"), workspace)
    assert not workspace.grpo.exists()


def test_adapters_are_merged(workspace: Workspace, policy: Path) -> None:
    grpo(params(policy / "fitted", {"lora_rank": 4}, steps=2, learning_rate=0.01, temperature=0.8), workspace)
    before, after = (load_file(path / "model.safetensors") for path in (policy / "fitted", workspace.grpo))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 7
    assert all("language_model" in name and "_proj" in name for name in changed)
    assert not (workspace.grpo / "adapters").exists()


def test_short_run_raises_reward(policy: Path, tmp_path: Path) -> None:
    """Start from a policy that answers Yes as often as No on a normal part; compare 24 rollouts with the last 96.

    The drawn rollouts depend on the rounding of the processor, so every bound is three standard deviations wide.
    """
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    place = found.with_format(None)["answer"].index("No")
    model = tmp_path / UNDECIDED
    fit(policy / "fitted", make_guesses(found[place]), model, rate=0.001, most=50)
    processor = load_processor(str(model))
    rows, truth = (
        select_prompts(found.select([place, place]), processor, 4096, Output(tmp_path)),
        read_truth(Workspace(policy), found),
    )
    chosen = params(
        model, steps=12, group=12, batch=24, save_steps=50, sample_steps=50, learning_rate=0.0004, temperature=1.0,
        max_completion=80, reward=params(model).grpo.reward | {"gamma": 0.0},
    )  # fmt: skip
    trainer = build_trainer(chosen, str(model), processor, rows, truth, {}, tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    share = [entry["rewards/accuracy_reward/mean"] for entry in logs]
    assert share[0] == pytest.approx(0.5, abs=0.31)
    assert sum(share[-4:]) / 4 > 0.5 + 0.16
    assert sum(entry["reward"] for entry in logs[-4:]) / 4 > logs[0]["reward"] + 0.3


@pytest.mark.slow
def test_two_processes_train_as_one(policy: Path, tmp_path: Path) -> None:
    workspace = link_project(policy, tmp_path)
    (tmp_path / "stopped").mkdir()
    link_project(policy, tmp_path / "stopped")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "HF_DATASETS_CACHE": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    worker = ROOT / "tests/helpers/two_processes.py"
    ran = subprocess.run(
        [*command, str(worker), str(policy / "fitted"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    for stage in ("sft", "grpo"):
        assert one[stage]["world"] == two[stage]["world"] == 2
        assert one[stage]["weights"] == two[stage]["weights"]
        assert one[stage]["moved"]
        # The written model is complete and has the trained weights.
        left = workspace.models / stage
        assert (left / "manifest.json").is_file()
        assert not (workspace.models / f".{stage}.partial").exists()
        assert torch.equal(next(load_model(str(left)).parameters()), torch.tensor(one[stage]["first"]))
    # Stopped before the third step, the run resumes from the second and reaches the same weights.
    assert "checkpoint-2" in one["stopped"][0]
    assert one["stopped"][1] == two["stopped"][1] == 1
    assert one["resumed"]["weights"] == two["resumed"]["weights"] == one["sft"]["weights"]
    # Without this sampler, both processes would wait at every update for the one with longer trajectories.
    assert one["sft"]["sampler"] == two["sft"]["sampler"] == "BatchRebalanceSampler"
    assert one["margin_passes"] == two["margin_passes"] > 0
    assert one["generations"] == two["generations"]
    # One process deletes the incomplete checkpoints of a killed run, and both resume from the same checkpoint.
    assert (one["deleted"], two.get("deleted", 0)) == (2, 0)
    assert one["goes_on"] == two["goes_on"] == "checkpoint-9"
    # The ranks have different numbers of turns of their own, so one took part in the other's turns.
    assert one["own_turns"] != two["own_turns"]
