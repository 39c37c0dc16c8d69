"""One of several processes that train together with `sft` and `grpo`; writes its results to ``rank-<n>.json``."""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import faults
import pytest
import torch

from cot_builder.params import Params
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

torch.set_num_threads(1)


def main(model: Path, root: Path) -> None:
    import training_project

    from tests.helpers import small_policy
    from train.grpo import grpo
    from train.sft import sft

    rank, workspace = int(os.environ["RANK"]), Workspace(root)
    counts: Counter[str] = Counter()
    found: dict[str, Any] = {}
    found["goes_on"], deleted = _resume_from_incomplete(root / "killed", rank)
    _record_library_calls(rank, counts, found)
    chosen = training_project.params(workspace, {"steps": 3, "save_steps": 1}, model=str(model))
    sft(chosen, workspace)
    found["sft"] = found.pop("trained")
    found["stopped"] = _stop_and_resume(chosen, Workspace(root / "stopped"))
    found["resumed"] = found.pop("trained")
    counts.clear()
    # Each rank gets one prompt. The second rank may make no call, so that the ranks take different numbers of turns.
    grpo(small_policy.params(model, steps=4, batch=4, save_steps=50, temperature=0.8), workspace)
    found["grpo"] = found.pop("trained")
    (root / f"rank-{rank}.json").write_text(json.dumps({**found, **counts, "deleted": deleted}))


def _stop_and_resume(chosen: Params, workspace: Workspace) -> tuple[str, int]:
    """Stop a training at its third step, then resume it; return the error message and the passes after resuming."""
    from train.sft import sft

    passes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        faults.before_a_pass(patch, faults.not_a_number(3))
        with pytest.raises(IndusCotError) as stopped:
            sft(chosen, workspace)
    with pytest.MonkeyPatch.context() as patch:
        faults.before_a_pass(patch, lambda number, _: passes.append(number))
        sft(chosen, workspace)
    return str(stopped.value), len(passes)


def _resume_from_incomplete(folder: Path, rank: int) -> tuple[str, int]:
    """Resume a run with incomplete checkpoints 2 and 10; return the checkpoint used and the number of deletions here."""
    from train import guard, processes

    if rank == 0:
        for step in (2, 9, 10):
            (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / "checkpoint-9" / guard.COMPLETE_MARKER).touch()
    processes.get_state().wait_for_everyone()
    deletes, deleted = shutil.rmtree, list[Path]()

    def counted(path: Path) -> None:
        deleted.append(path)
        deletes(path)

    shutil.rmtree = counted  # type: ignore[assignment]
    last = guard.find_last_checkpoint(folder)
    shutil.rmtree = deletes
    return last.name if last else "", len(deleted)


def _record_library_calls(rank: int, counts: Counter[str], found: dict[str, Any]) -> None:
    """Count calls of the libraries, and compare the weights before and after each training."""
    from transformers import GenerationMixin, Trainer
    from trl import GRPOTrainer

    generate, loop, train = GenerationMixin.generate, GRPOTrainer._tool_call_loop, Trainer.train

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        counts["generations"] += 1
        return generate(self, *arguments, **options)

    def looped(self: Any, *arguments: Any, **options: Any) -> Any:
        if rank:
            for turns in arguments[3]:
                turns[-1].pop("tool_calls", None)
        done = loop(self, *arguments, **options)
        counts["own_turns"] += any(message["role"] == "tool" for turns in done[1] for message in turns)
        return done

    def passed(module: Any, arguments: Any, options: dict, output: Any) -> None:
        counts["margin_passes"] += (
            options.get("logits_to_keep") is not None and not module.training and "past_key_values" not in options
        )

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        self.model.register_forward_hook(passed, with_kwargs=True)
        before = _hash_weights(self)
        done = train(self, *arguments, **options)
        first = next(self.accelerator.unwrap_model(self.model).parameters()).detach()
        found["trained"] = {
            "world": self.accelerator.num_processes,
            "weights": _hash_weights(self),
            "moved": _hash_weights(self) != before,
            "first": first.tolist(),
            "sampler": type(self._get_train_sampler()).__name__,
        }
        return done

    GenerationMixin.generate, GRPOTrainer._tool_call_loop, Trainer.train = counted, looped, watched


def _hash_weights(trainer: Any) -> str:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # Skip the interpreter's shutdown, in which a gloo thread may abort.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
