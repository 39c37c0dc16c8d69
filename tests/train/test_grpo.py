"""Stage `grpo` on a small policy that calls a tool."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.storage.output import Output, read_manifest
from cot_builder.storage.workspace import Workspace, file_hash
from eval.report.rollouts import write_rollouts
from schemas.errors import IndusCotError
from schemas.supervision import SUPERVISION
from tests.helpers.faults import before_a_pass, no_memory, not_a_number
from tests.helpers.paths import ROOT
from tests.helpers.small_policy import UNDECIDED, fit, guesses, params
from train import card, corpus
from train.grpo import CHECKPOINTS, Judge, build, check, groups_of_a_rank, grpo, print_plan, prompts
from train.guard import last_whole
from train.model import load_model, load_processor
from train.rewards import location_reward
from train.sft import sft
from train.truth import read_truth

torch.set_num_threads(1)
TERMS = {
    "accuracy_reward": None,
    "location_reward": "alpha",
    "type_reward": "beta",
    "tool_reward": "gamma",
    "format_reward": "format_penalty",
}
"""Terms as TRL logs them, and what weighs them."""


def _project(policy: Path, root: Path) -> Workspace:
    (root / "data").symlink_to(policy / "data")
    return Workspace(root)


@pytest.fixture
def workspace(policy: Path, tmp_path: Path) -> Workspace:
    """The small corpus, to be written beside."""
    return _project(policy, tmp_path)


@pytest.fixture(scope="module")
def trained(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What three steps leave."""
    workspace = _project(policy, tmp_path_factory.mktemp("trained"))
    grpo(params(policy / "fitted"), workspace, write_rollouts)
    return workspace


def _trainer(
    policy: Path,
    folder: Path,
    told: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    **changed: Any,
) -> Any:
    """The trainer of a run, and rewards that are told the truth of each row as ``told`` has it."""
    model = policy / "fitted"
    processor = load_processor(str(model))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    rows = prompts(found, processor, 4096, Output(folder))
    truth = {name: told(row) for name, row in read_truth(Workspace(policy), found).items()}
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


def _log(trainer: Any) -> dict[str, float]:
    return next(entry for entry in reversed(trainer.state.log_history) if "reward" in entry)


@pytest.mark.parametrize(
    ("processes", "batch", "accumulation", "group", "fits"),
    [(1, 4, 1, 4, True), (1, 2, 2, 4, True), (4, 1, 2, 4, True), (1, 3, 1, 4, False), (2, 1, 1, 4, False)],
)
def test_a_group_must_divide_the_batch(processes: int, batch: int, accumulation: int, group: int, fits: bool) -> None:
    chosen = params(Path("m"), batch=batch, accumulation=accumulation, group=group)
    if fits:
        check(chosen, processes)
    else:
        with pytest.raises(IndusCotError, match="multiple of"):
            check(chosen, processes)


@pytest.mark.parametrize(
    ("train", "changed", "processes", "words"),
    [
        ({}, {"rollouts": "vllm-server"}, 2, "vllm-server with 2 processes: .* set grpo.rollouts=vllm-colocate"),
        ({"target": "labels"}, {}, 1, "train.target is labels, the control arm"),
    ],
)
def test_what_would_train_something_else_than_it_says_is_refused(
    train: dict[str, Any], changed: dict[str, Any], processes: int, words: str
) -> None:
    with pytest.raises(IndusCotError, match=words):
        check(params(Path("m"), train, **changed), processes)


def test_several_gpus_without_a_launcher_are_refused_with_the_command(
    workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    # As in the paper's profile: the groups divide what four processes ask for, and not what one does.
    chosen = params(policy / "fitted", {"model": str(policy / "fitted")}, batch=1, accumulation=2, group=4)
    for stage in (sft, grpo):
        told = rf"{stage.__name__}: 4 GPUs are visible .*accelerate launch .* --profile paper {stage.__name__}`"
        with pytest.raises(IndusCotError, match=told):
            stage(chosen, workspace)
    assert not workspace.models.exists()


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
    text = json.loads((bare / "config.json").read_text())["text_config"]
    values = text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"]
    # A key and a value each, in 32 bit.
    assert found.cache == 2 * (found.longest + 300) * 2 * values * 4
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
    # ZeRO-3 gathers all of them on every device before the first word, in 32 bit here.
    assert (found.gathered, four.gathered) == (0, 4 * weights) and "weights gathered to write" in str(four)
    assert four.memory == four.weights + four.reference + four.optimiser + max(
        four.activations, four.cache + 4 * weights
    )
    assert print_plan(params(bare, **settings, rollouts="vllm-colocate"), Workspace(policy)).gathered == 0
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert print_plan(params(bare, **settings), Workspace(policy)).gathered == 0
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


@pytest.mark.parametrize(
    ("completions", "group", "processes", "due"), [(4, 4, 1, 1), (8, 4, 1, 2), (2, 4, 2, 1), (3, 4, 4, 2), (3, 2, 2, 2)]
)
def test_ranks_ask_for_the_margins_of_as_many_prompts(completions: int, group: int, processes: int, due: int) -> None:
    prompt = [place // group for place in range(completions * processes)]
    held = [len(set(prompt[start : start + completions])) for start in range(0, len(prompt), completions)]
    assert groups_of_a_rank(completions, group, processes) == max(held) == due


def test_a_batch_that_no_group_divides_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        IndusCotError, match=r"grpo\.batch 3 .* = 3 completions an update, no multiple of grpo\.group 4"
    ):
        grpo(params(tmp_path / "no model", batch=3), Workspace(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_trainer_is_given_no_truth_and_long_prompts_are_named(policy: Path, tmp_path: Path) -> None:
    processor = load_processor(str(policy / "raw"))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    output = Output(tmp_path)
    rows = prompts(found, processor, 4096, output)
    assert set(rows[0]) == {"id", "prompt", "image"}
    assert set(read_truth(Workspace(policy), found)) == set(found.with_format(None)["id"])
    assert not output.left_out
    with pytest.raises(IndusCotError, match="max_prompt"):
        prompts(found, processor, 10, output)
    assert len(output.left_out) == len(found)


def test_rewards_are_scored_against_what_was_published_and_experts_mended(policy: Path, tmp_path: Path) -> None:
    found = corpus.read(policy / "data" / "indus_cot")["train"].with_format(None)
    rows = [row for row in found.remove_columns(["messages", "images", "tools"]).to_list() if row["answer"] == "Yes"]
    table = SUPERVISION.read(policy / "data" / "select" / "supervision.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "draft").symlink_to(policy / "data" / "draft")
    workspace, place, whole = Workspace(tmp_path), [[10, 20, 30, 40]], [[0, 0, 1000, 1000]]

    def truth(row: dict[str, Any], published: list[list[int]], **changed: Any) -> Mapping[str, Any]:
        """Of a row whose sample has a stain at ``published``."""
        mine = pl.col("sample_id") == row["sample_id"]
        stated = pl.when(mine).then(pl.lit(pl.Series([published], dtype=table["boxes"].dtype)))
        stain = pl.when(mine).then(pl.lit("stain")).otherwise(pl.col("defect_type"))
        SUPERVISION.write(
            table.with_columns(stated.otherwise(pl.col("boxes")).alias("boxes"), stain.alias("defect_type")),
            workspace.select / "supervision.parquet",
        )
        return read_truth(workspace, datasets.Dataset.from_list([row | changed]))[row["id"]]

    drafted = rows[0]
    # What the teacher wrote near the place, or an expert left as it was, is no truth.
    for status in ("auto", "accepted", "fixed"):
        assert truth(drafted, place, review_status=status) == {"answer": "Yes", "boxes": place, "defect_type": "stain"}
    # What an expert changed is, and that alone.
    assert truth(drafted, place, review_status="fixed", boxes=whole) == {
        "answer": "Yes", "boxes": whole, "defect_type": "stain",
    }  # fmt: skip
    assert truth(drafted, place, review_status="fixed", defect_type="dent")["boxes"] == place
    assert truth(drafted, place, review_status="fixed", defect_type="dent")["defect_type"] == "dent"
    sound = {"answer": "No", "boxes": [], "defect_type": None}
    assert truth(drafted, place, review_status="fixed", **sound) == sound
    # Where no place was published, naming all of the image earns nothing, whatever the teacher wrote.
    unplaced = truth(drafted, [], boxes=whole)
    said = "<think>A stain.</think><location>[[0, 0, 1000, 1000]]</location><type>stain</type><answer>Yes</answer>"
    written = [[{"role": "assistant", "content": said}]]
    assert location_reward(written, ["Yes"], [unplaced["boxes"]]) == [0.0]
    judge = Judge({"row": unplaced}, {"location_reward": 1.0})
    judge.score(location_reward)(completions=written, id=["row"], prompts=[written[0]], log_metric=lambda *_: None)
    assert judge.shown()[0]["truth"] == "<location>[]</location><type>stain</type><answer>Yes</answer>"

    with pytest.raises(IndusCotError, match=f"row {drafted['id']}: data/select or data/draft no longer holds"):
        truth(drafted, place, sample_id="gone")
    (workspace.select / "supervision.parquet").unlink()
    with pytest.raises(IndusCotError, match=r"select.supervision\.parquet: .* run the stage that makes it"):
        read_truth(workspace, found)


def _opposite(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["answer"] == "Yes":
        return {"answer": "No", "boxes": [], "defect_type": None}
    return {"answer": "Yes", "boxes": [[10, 20, 300, 400]], "defect_type": "hole"}


def test_nothing_the_policy_reads_or_writes_depends_on_the_truth(policy: Path, tmp_path: Path) -> None:
    true = _trainer(policy, tmp_path / "true", steps=1)
    (first,) = _batches(true)
    false = _trainer(policy, tmp_path / "false", told=_opposite, steps=1)
    (second,) = _batches(false)
    read = ("prompt_ids", "completion_ids", "tool_mask", "pixel_values", "image_grid_thw")
    assert all(torch.equal(first[name], second[name]) for name in read)
    assert (first["tool_mask"] == 0).any()
    assert _log(true)["reward"] != _log(false)["reward"]


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
    trainer = _trainer(policy, tmp_path, steps=1, max_completion=60)
    trainer.train()
    (kept,) = (tmp_path / "rollouts").glob("*.json")
    shown = json.loads(kept.read_text())["rollouts"]
    called = [item for item in shown if any(turn["calls"] for turn in item["turns"])]
    assert called
    for item in called:
        assert [turn["role"] for turn in item["turns"]] == ["user", "assistant"]
        assert item["terms"]["reward"] == -0.5
        assert item["terms"]["tool"] == 0


@pytest.mark.parametrize("left_out", TERMS)
def test_a_run_weighs_every_term_and_one_of_weight_zero_is_left_out(
    policy: Path, tmp_path: Path, left_out: str
) -> None:
    weights = params(policy).grpo.reward
    if name := TERMS[left_out]:
        weights = weights.model_copy(update={name: 0.0})
    trainer = _trainer(policy, tmp_path, steps=1, batch=2, group=2, reward=weights)
    trainer.train()
    log = _log(trainer)
    kept = {term: getattr(weights, name) if name else 1.0 for term, name in TERMS.items()}
    if name:
        del kept[left_out]
    assert {entry.split("/")[1] for entry in log if entry.startswith("rewards/")} == set(kept)
    assert log["reward"] == pytest.approx(
        sum(log[f"rewards/{term}/mean"] * worth for term, worth in kept.items()), abs=1e-5
    )
    assert ("confidence_gain" in log) == ("tool_reward" in kept)


def test_a_run_leaves_a_model_figures_a_curve_and_a_page(trained: Workspace) -> None:
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


def test_a_model_of_grpo_is_trained_on_whatever_is_left_out_and_none_goes_on_from_itself(
    workspace: Workspace, trained: Workspace
) -> None:
    shutil.copytree(trained.grpo, workspace.models / "first")
    none = params(Path()).grpo.reward.model_copy(update={"gamma": 0.0})
    grpo(params(Path("models/first"), steps=1, batch=2, group=2, kl=0.0, reward=none), workspace)
    began = (workspace.grpo / "README.md").read_text()
    assert "| began from | `fitted`, then stage `grpo` of this project |" in began
    assert _plotted() <= set(_curve(workspace)[0])
    manifest = read_manifest(workspace.grpo)
    assert manifest["inputs"]["model"] == file_hash(trained.grpo / "manifest.json")
    assert {"torch", "transformers", "trl", "peft", "supervision"} <= manifest["inputs"].keys()
    assert manifest["params"]["draft"]["max_calls"] > 0 and manifest["params"]["processes"] == 1
    before = file_hash(workspace.grpo / "manifest.json")
    with pytest.raises(IndusCotError, match=r"grpo\.model: models/grpo is what this stage writes; .* copy it"):
        grpo(params(Path("models/grpo")), workspace)
    assert file_hash(workspace.grpo / "manifest.json") == before


def test_a_model_card_that_fails_does_not_lose_the_training(
    workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise IndusCotError("no card")

    monkeypatch.setattr(card, "write", fails)
    with pytest.raises(IndusCotError, match="no card"):
        grpo(params(policy / "fitted", steps=1, batch=2, group=2), workspace)
    assert last_whole(workspace.models / ".grpo.partial" / CHECKPOINTS) is not None


def test_ranks_of_fsdp_are_told_to_write_as_long_as_each_other(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With FSDP itself it was not run. This is what transformers asks before it generates.
    from transformers.distributed.fsdp import is_fsdp_managed_module
    from trl import GRPOTrainer

    trainer, asked = _trainer(policy, tmp_path), list[bool]()

    def turn(self: Any, *_: Any, **__: Any) -> None:
        asked.append(is_fsdp_managed_module(self.model))

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", turn)
    for trainer.is_fsdp_enabled in (False, True):
        trainer._generate_single_turn()
    assert asked == [False, True]


def _curve(workspace: Workspace) -> list[dict[str, str]]:
    """The curve, without what is timed."""
    with (workspace.reports / "grpo" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if not ("time" in name or name.endswith("_per_s"))} for row in rows
    ]


def test_a_loss_that_is_no_number_stops_a_run_which_then_goes_on_with_the_same_curve(
    workspace: Workspace, trained: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params(policy / "fitted")
    with monkeypatch.context() as patch:
        before_a_pass(patch, not_a_number(3))
        with pytest.raises(IndusCotError, match=r"step 3: the loss is not a number .*checkpoint-2\. Lower"):
            grpo(settings, workspace, write_rollouts)
    assert not workspace.grpo.exists()
    # Of the steps that were done, it can be watched while it trains.
    assert (workspace.reports / "grpo" / "rollouts.html").read_text().count("<details") == 2
    kept = last_whole(workspace.models / ".grpo.partial" / CHECKPOINTS)
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


def test_a_policy_that_nothing_can_be_sampled_from_stops_the_run(policy: Path, tmp_path: Path) -> None:
    trainer = _trainer(policy, tmp_path, steps=1)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(IndusCotError, match=r"step 1: what the policy would sample from is not a number"):
        trainer.train()


def test_a_placeholder_of_a_picture_is_never_sampled(policy: Path, tmp_path: Path) -> None:
    trainer = _trainer(policy, tmp_path, steps=1)
    processor = trainer.processing_class

    def favours_placeholders(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., [processor.image_token_id, processor.video_token_id]] += 1000
        return logits

    trainer.model.lm_head.register_forward_hook(favours_placeholders)
    trainer.train()


def test_a_lack_of_memory_is_told_with_what_to_lower(
    workspace: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_a_pass(monkeypatch, no_memory)
    told = r"out of memory .*Lower grpo\.batch and raise grpo\.accum.* lower grpo\.margin_batch.*cot grpo --print-plan"
    with pytest.raises(IndusCotError, match=told):
        grpo(params(policy / "fitted"), workspace)
    assert not workspace.grpo.exists()


def test_adapters_train_the_language_model_alone_and_are_merged(workspace: Workspace, policy: Path) -> None:
    grpo(params(policy / "fitted", {"lora_rank": 4}, steps=2, learning_rate=0.01, temperature=0.8), workspace)
    before, after = (load_file(path / "model.safetensors") for path in (policy / "fitted", workspace.grpo))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 7
    assert all("language_model" in name and "_proj" in name for name in changed)
    assert not (workspace.grpo / "adapters").exists()


def test_a_short_run_raises_the_reward(policy: Path, tmp_path: Path) -> None:
    """From a policy that answers Yes as often as No, on a sound part: 24 rollouts before it learns, 96 at the end.

    Which are drawn depends on how a processor rounds, so that every bound is of three standard deviations.
    """
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    place = found.with_format(None)["answer"].index("No")
    model = tmp_path / UNDECIDED
    fit(policy / "fitted", guesses(found[place]), model, rate=0.001, most=50)
    processor = load_processor(str(model))
    rows, truth = (
        prompts(found.select([place, place]), processor, 4096, Output(tmp_path)),
        read_truth(Workspace(policy), found),
    )
    chosen = params(
        model, steps=12, group=12, batch=24, save_steps=50, sample_steps=50, learning_rate=0.0004, temperature=1.0,
        max_completion=80, reward=params(model).grpo.reward.model_copy(update={"gamma": 0.0}),
    )  # fmt: skip
    trainer = build(chosen, str(model), processor, rows, truth, {}, tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    share = [entry["rewards/accuracy_reward/mean"] for entry in logs]
    assert share[0] == pytest.approx(0.5, abs=0.31)
    assert sum(share[-4:]) / 4 > 0.5 + 0.16
    assert sum(entry["reward"] for entry in logs[-4:]) / 4 > logs[0]["reward"] + 0.3


def test_two_processes_train_as_one(policy: Path, tmp_path: Path) -> None:
    workspace = _project(policy, tmp_path)
    (tmp_path / "stopped").mkdir()
    _project(policy, tmp_path / "stopped")
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
        # What is left is whole, and what was trained.
        left = workspace.models / stage
        assert (left / "manifest.json").is_file()
        assert not (workspace.models / f".{stage}.partial").exists()
        assert torch.equal(next(load_model(str(left)).parameters()), torch.tensor(one[stage]["first"]))
    # Stopped before the third step, it goes on from the second, to the same weights.
    assert "checkpoint-2" in one["stopped"][0]
    assert one["stopped"][1] == two["stopped"][1] == 1
    assert one["resumed"]["weights"] == two["resumed"]["weights"] == one["sft"]["weights"]
    # Else at every update both would wait for the one with the longer trajectories.
    assert one["sft"]["sampler"] == two["sft"]["sampler"] == "BatchRebalanceSampler"
    assert one["margin_passes"] == two["margin_passes"] > 0
    assert one["generations"] == two["generations"]
    # One of them deletes what a killed run left half-written, and both go on from the same checkpoint.
    assert (one["deleted"], two.get("deleted", 0)) == (2, 0)
    assert one["goes_on"] == two["goes_on"] == "checkpoint-9"
    # Without company one of the ranks would have turned less often.
    assert one["own_turns"] != two["own_turns"]
