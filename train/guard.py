"""Protects a long training: finds complete checkpoints, stops at NaN, and explains a lack of memory."""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import IndusCotError
from train import processes

COMPLETE_MARKER = "whole"
"""Name of the empty file that is written last and marks a checkpoint as complete."""
CHECKPOINTS_KEPT = 2
"""Number of checkpoints kept: the one being written, and the one before it."""
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
SAMPLING_FAILED = "probability tensor contains either"
"""Beginning of PyTorch's error message for sampling from NaN probabilities."""
MEMORY_OPTIONS = {
    "sft": "train.max_tokens (longer trajectories are then left out)",
    "grpo": "grpo.margin_batch, grpo.max_completion, or grpo.max_prompt (longer prompts are then left out)",
}
"""Further parameters of each stage that reduce the memory it needs."""


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, and delete checkpoints that a killed run left incomplete.

    Every process must call it: the main process deletes, and the others wait for it before they look.

    Args:
        folder: Holds ``checkpoint-<step>`` folders; may be absent.
    """
    state = processes.get_state()
    if state.is_main_process:
        for path in folder.glob("checkpoint-*"):
            if not (path / COMPLETE_MARKER).is_file():
                shutil.rmtree(path)
    state.wait_for_everyone()
    found = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE_MARKER}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def make_checkpoint_marker() -> Any:
    """Return a callback that marks a checkpoint as complete once every process has written its part.

    Raises:
        IndusCotError: during training: a weight is NaN or infinite.
    """
    import torch
    from transformers import TrainerCallback

    class Marker(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
            folder = Path(args.output_dir)
            if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad):
                raise _make_nan_error("the weights are", state.global_step, folder)
            processes.get_state().wait_for_everyone()
            if state.is_world_process_zero:
                (folder / f"checkpoint-{state.global_step}" / COMPLETE_MARKER).touch()

    return Marker()


def add_nan_check(trainer: type) -> type:
    """Return a trainer class that stops before it applies a loss or gradients that are NaN or infinite.

    Raises:
        IndusCotError: during training: the loss, the gradients or the policy's probabilities are not finite; the
            message names the last good checkpoint.
    """
    import torch

    class StopsAtNan(trainer):
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            try:
                loss = super().training_step(*arguments, **options)
            except RuntimeError as error:
                if SAMPLING_FAILED not in str(error):
                    raise
                raise self._stop("a probability of the policy is") from error
            if not torch.isfinite(loss).all():
                raise self._stop("the loss is")
            return loss

        def _get_grad_norm(self, *arguments: Any, **options: Any) -> Any:
            # The trainer calls this before it updates the weights. A finite loss may have infinite gradients.
            norm = super()._get_grad_norm(*arguments, **options)
            if norm is not None and not math.isfinite(float(norm)):
                raise self._stop("the gradients are")
            return norm

        def _stop(self, what: str) -> IndusCotError:
            return _make_nan_error(what, self.state.global_step + 1, Path(self.args.output_dir))

    return StopsAtNan


def _make_nan_error(what: str, step: int, folder: Path) -> IndusCotError:
    good = sorted(
        folder.glob(f"checkpoint-*/{COMPLETE_MARKER}"), key=lambda path: int(path.parent.name.rpartition("-")[2])
    )
    kept = f"the last good checkpoint is {good[-1].parent}" if good else "no checkpoint had been written yet"
    return IndusCotError(
        f"step {step}: {what} not a number (NaN or infinite); training stopped, {kept}. Lower the learning rate or "
        "raise the warm-up; with bfloat16, try float32"
    )


@contextmanager
def explain_out_of_memory(section: str) -> Iterator[None]:
    """Turn an out-of-memory error into a message that names the parameters to lower.

    Args:
        section: Section of params.yaml: sft or grpo.

    Raises:
        IndusCotError: the device or the machine has no memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        raise IndusCotError(
            f"out of memory ({' '.join(str(error).split())[:160]}). Lower {section}.batch and raise "
            f"{section}.accumulation by the same factor, which trains the same; lower {MEMORY_OPTIONS[section]}; set "
            "train.gradient_checkpointing or train.lora_rank; or shard over more devices (train/configs). "
            f"`indus-cot {section} --print-plan` estimates the memory of weights and activations"
        ) from error
