"""One of several processes that train together; writes what it did to ``rank-<n>.json``."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(policy: Path, folder: Path) -> None:
    from transformers import GenerationMixin

    from tests.test_grpo import _trainer

    rank = int(os.environ["RANK"])
    # One prompt a rank; the second is never allowed a call, so that the ranks turn a different number of times.
    trainer = _trainer(policy, folder / f"out-{rank}", steps=4, batch=4, save_steps=50, temperature=0.8)
    counts = {"generations": 0, "margin_passes": 0, "own_turns": 0}
    generate, single = GenerationMixin.generate, type(trainer)._tool_call_loop

    def counted(self: object, *arguments: object, **options: object) -> object:
        counts["generations"] += 1
        return generate(self, *arguments, **options)

    def looped(self: object, *arguments: object, **options: object) -> object:
        completions = arguments[3]
        if rank:
            for turns in completions:
                turns[-1].pop("tool_calls", None)
        done = single(self, *arguments, **options)
        counts["own_turns"] += any(message["role"] == "tool" for turns in done[1] for message in turns)
        return done

    def passed(module: object, arguments: object, options: dict, output: object) -> None:
        counts["margin_passes"] += (
            options.get("logits_to_keep") is not None and not module.training and "past_key_values" not in options
        )

    GenerationMixin.generate = counted
    type(trainer)._tool_call_loop = looped
    before = _digest(trainer)
    trainer.model.register_forward_hook(passed, with_kwargs=True)
    trainer.train()
    found = {
        **counts,
        "world": trainer.accelerator.num_processes,
        "weights": _digest(trainer),
        "moved": _digest(trainer) != before,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    trainer.accelerator.wait_for_everyone()


def _digest(trainer: object) -> str:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # A thread of gloo may abort at the interpreter's exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
