"""Tests rollouts of `grpo`: prompts, observations and rewards, and that no policy sees the truth."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
import torch

from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.storage.output import Output
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.supervision import SUPERVISION
from tests.helpers.reinforcement import last_log, make_trainer, record_batches
from train import corpus
from train.grpo import TruthScorer, select_prompts
from train.model import load_processor
from train.rewards.location import location_reward
from train.truth import read_truth


def test_prompts_hold_no_truth(policy: Path, tmp_path: Path) -> None:
    processor = load_processor(str(policy / "raw"))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    output = Output(tmp_path)
    rows = select_prompts(found, processor, 4096, output)
    assert set(rows[0]) == {"id", "prompt", "image"}
    assert set(read_truth(Workspace(policy), found)) == set(found.with_format(None)["id"])
    assert not output.left_out
    with pytest.raises(IndusCotError, match="max_prompt"):
        select_prompts(found, processor, 10, output)
    assert len(output.left_out) == len(found)


def test_truth_comes_from_labels_and_experts(policy: Path, tmp_path: Path) -> None:
    found = corpus.read(policy / "data" / "indus_cot")["train"].with_format(None)
    rows = [row for row in found.remove_columns(["messages", "images", "tools"]).to_list() if row["answer"] == "Yes"]
    table = SUPERVISION.read(policy / "data" / "select" / "supervision.parquet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "draft").symlink_to(policy / "data" / "draft")
    workspace, place, whole = Workspace(tmp_path), [[10, 20, 30, 40]], [[0, 0, 1000, 1000]]

    def truth(row: dict[str, Any], published: list[list[int]], **changed: Any) -> Mapping[str, Any]:
        """Return the truth of a row whose sample has a stain at ``published``."""
        mine = pl.col("sample_id") == row["sample_id"]
        stated = pl.when(mine).then(pl.lit(pl.Series([published], dtype=table["boxes"].dtype)))
        stain = pl.when(mine).then(pl.lit("stain")).otherwise(pl.col("defect_type"))
        SUPERVISION.write(
            table.with_columns(stated.otherwise(pl.col("boxes")).alias("boxes"), stain.alias("defect_type")),
            workspace.select / "supervision.parquet",
        )
        return read_truth(workspace, datasets.Dataset.from_list([row | changed]))[row["id"]]

    drafted = rows[0]
    # The teacher's verdict is not the truth, even if an expert accepted it unchanged.
    for status in ("auto", "accepted", "fixed"):
        assert truth(drafted, place, review_status=status) == {"answer": "Yes", "boxes": place, "defect_type": "stain"}
    # Only the fields that an expert changed override the labels.
    assert truth(drafted, place, review_status="fixed", boxes=whole) == {
        "answer": "Yes", "boxes": whole, "defect_type": "stain",
    }  # fmt: skip
    assert truth(drafted, place, review_status="fixed", defect_type="dent")["boxes"] == place
    assert truth(drafted, place, review_status="fixed", defect_type="dent")["defect_type"] == "dent"
    sound = {"answer": "No", "boxes": [], "defect_type": None}
    assert truth(drafted, place, review_status="fixed", **sound) == sound
    # If no place was published, a box of the whole image earns nothing, even if the teacher wrote it.
    unplaced = truth(drafted, [], boxes=whole)
    said = "<think>A stain.</think><location>[[0, 0, 1000, 1000]]</location><type>stain</type><answer>Yes</answer>"
    written = [[{"role": "assistant", "content": said}]]
    assert location_reward(written, answer=["Yes"], boxes=[unplaced["boxes"]]) == [0.0]
    judge = TruthScorer({"row": unplaced}, {"location_reward": 1.0})
    judge.with_truth(location_reward)(completions=written, id=["row"], prompts=[written[0]], log_metric=lambda *_: None)
    assert judge.sample_rollouts()[0]["truth"] == "<location>[]</location><type>stain</type><answer>Yes</answer>"

    with pytest.raises(IndusCotError, match=f"row {drafted['id']}: data/select or data/draft no longer holds"):
        truth(drafted, place, sample_id="gone")
    (workspace.select / "supervision.parquet").unlink()
    with pytest.raises(IndusCotError, match=r"select.supervision\.parquet: .* run the stage that writes it"):
        read_truth(workspace, found)


def _opposite(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["answer"] == "Yes":
        return {"answer": "No", "boxes": [], "defect_type": None}
    return {"answer": "Yes", "boxes": [[10, 20, 300, 400]], "defect_type": "hole"}


def test_policy_never_sees_truth(policy: Path, tmp_path: Path) -> None:
    true = make_trainer(policy, tmp_path / "true", steps=1)
    (first,) = record_batches(true)
    false = make_trainer(policy, tmp_path / "false", change_truth=_opposite, steps=1)
    (second,) = record_batches(false)
    read = ("prompt_ids", "completion_ids", "tool_mask", "pixel_values", "image_grid_thw")
    assert all(torch.equal(first[name], second[name]) for name in read)
    assert (first["tool_mask"] == 0).any()
    assert last_log(true)["reward"] != last_log(false)["reward"]


def test_observations_bear_no_loss(policy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, steps=1)
    (batch,) = record_batches(trainer)
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


def test_oversized_observation_ends_without_reward(policy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, steps=1, max_completion=60)
    trainer.train()
    (kept,) = (tmp_path / "rollouts").glob("*.json")
    shown = json.loads(kept.read_text())["rollouts"]
    called = [item for item in shown if any(turn["calls"] for turn in item["turns"])]
    assert called
    for item in called:
        assert [turn["role"] for turn in item["turns"]] == ["user", "assistant"]
        assert item["terms"]["reward"] == -0.5
        assert item["terms"]["tool"] == 0


def test_nan_probabilities_stop_the_run(policy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, steps=1)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(IndusCotError, match=r"step 1: a probability of the policy is not a number"):
        trainer.train()


def test_placeholders_are_never_sampled(policy: Path, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, steps=1)
    processor = trainer.processing_class

    def favours_placeholders(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., [processor.image_token_id, processor.video_token_id]] += 1000
        return logits

    trainer.model.lm_head.register_forward_hook(favours_placeholders)
    trainer.train()
