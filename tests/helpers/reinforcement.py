"""Builds a trainer of `grpo` on the small corpus, and records its batches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cot_builder.storage.output import Output
from cot_builder.storage.workspace import Workspace
from tests.helpers.small_policy import params
from train import corpus
from train.grpo import build_trainer, select_prompts
from train.model import load_processor
from train.truth import read_truth

torch.set_num_threads(1)


def link_project(policy: Path, root: Path) -> Workspace:
    """Make a workspace at ``root`` that links the data of the policy's project."""
    (root / "data").symlink_to(policy / "data")
    return Workspace(root)


def make_trainer(
    policy: Path,
    folder: Path,
    change_truth: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    **changed: Any,
) -> Any:
    """Build the trainer of a run; its rewards use the truth of each row as ``change_truth`` returns it."""
    model = policy / "fitted"
    processor = load_processor(str(model))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    rows = select_prompts(found, processor, 4096, Output(folder))
    truth = {name: change_truth(row) for name, row in read_truth(Workspace(policy), found).items()}
    return build_trainer(
        params(model, **changed), str(model), processor, rows, truth, {("bolt", "C1"): "Even."}, folder
    )


def record_batches(trainer: Any) -> list[dict[str, Any]]:
    """Train, and return the batches that the loss was computed on."""
    seen: list[dict[str, Any]] = []
    compute = trainer.compute_loss

    def noted(model: Any, inputs: Any, **options: Any) -> Any:
        seen.append(dict(inputs))
        return compute(model, inputs, **options)

    trainer.compute_loss = noted
    trainer.train()
    return seen


def last_log(trainer: Any) -> dict[str, float]:
    """Return the trainer's log of its last step."""
    return next(entry for entry in reversed(trainer.state.log_history) if "reward" in entry)
