"""What keeps a long training from being lost: checkpoints that are whole, a stop at NaN, words for a lack of memory."""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import IndusCotError
from train import processes

WHOLE = "whole"
"""Name of the empty file that is written into a checkpoint last."""
KEPT = 2
"""Checkpoints kept: the one being written, and the one before it."""
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
UNSAMPLED = "probability tensor contains either"
"""How PyTorch begins to say that it cannot draw from probabilities that are no numbers."""
SHORTER = {
    "sft": "train.max_tokens (longer trajectories are then left out)",
    "grpo": "grpo.margin_batch, grpo.max_completion, or grpo.max_prompt (longer prompts are then left out)",
}
"""What else of a stage takes memory."""


def last_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; what a killed run left half-written is deleted.

    Every process takes part: one deletes, and all look once it has.

    Args:
        folder: Holds ``checkpoint-<step>`` folders; may be absent.
    """
    state = processes.state()
    if state.is_main_process:
        for path in folder.glob("checkpoint-*"):
            if not (path / WHOLE).is_file():
                shutil.rmtree(path)
    state.wait_for_everyone()
    found = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def marker() -> Any:
    """A callback that marks a checkpoint as whole once every process has written its part.

    Raises:
        IndusCotError: in training: the weights are no longer numbers.
    """
    import torch
    from transformers import TrainerCallback

    class Marker(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
            folder = Path(args.output_dir)
            if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad):
                raise _not_a_number("the weights are", state.global_step, folder)
            processes.state().wait_for_everyone()
            if state.is_world_process_zero:
                (folder / f"checkpoint-{state.global_step}" / WHOLE).touch()

    return Marker()


def stops_at_nan(trainer: type) -> type:
    """A trainer class that stops before it applies a loss or gradients that are no numbers.

    Raises:
        IndusCotError: in training: the loss or the gradients are not finite, or nothing can be sampled from the policy;
            says where the last good checkpoint is.
    """
    import torch

    class StopsAtNan(trainer):
        def training_step(self, *arguments: Any, **options: Any) -> Any:
            try:
                loss = super().training_step(*arguments, **options)
            except RuntimeError as error:
                if UNSAMPLED not in str(error):
                    raise
                raise self._stop("what the policy would sample from is") from error
            if not torch.isfinite(loss).all():
                raise self._stop("the loss is")
            return loss

        def _get_grad_norm(self, *arguments: Any, **options: Any) -> Any:
            # Asked for before the weights are changed; a finite loss may have gradients that are not.
            norm = super()._get_grad_norm(*arguments, **options)
            if norm is not None and not math.isfinite(float(norm)):
                raise self._stop("the gradients are")
            return norm

        def _stop(self, what: str) -> IndusCotError:
            return _not_a_number(what, self.state.global_step + 1, Path(self.args.output_dir))

    return StopsAtNan


def _not_a_number(what: str, step: int, folder: Path) -> IndusCotError:
    good = sorted(folder.glob(f"checkpoint-*/{WHOLE}"), key=lambda path: int(path.parent.name.rpartition("-")[2]))
    kept = f"the last good checkpoint is {good[-1].parent}" if good else "no checkpoint had been written yet"
    return IndusCotError(
        f"step {step}: {what} not a number (NaN or infinite); training stopped, {kept}. Lower the learning rate or "
        "raise the warm-up; with bfloat16, try float32"
    )


@contextmanager
def memory_explained(section: str) -> Iterator[None]:
    """Turn a lack of memory into words that say what to lower.

    Args:
        section: Of params.yaml: sft or grpo.

    Raises:
        IndusCotError: the device or the machine has no memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        raise IndusCotError(
            f"out of memory ({' '.join(str(error).split())[:160]}). Lower {section}.batch and raise "
            f"{section}.accumulation by as much, which trains the same; lower {SHORTER[section]}; set "
            "train.gradient_checkpointing or train.lora_rank; or shard over more devices (train/configs). "
            f"`indus-cot {section} --print-plan` estimates what weights and activations take"
        ) from error
