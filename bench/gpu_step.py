"""One SFT step and one GRPO step of a Qwen3-VL with the dimensions of the 8B, randomly initialised, on a GPU.

    indus-cot repro assemble         # any corpus will do
    python -m bench.gpu_step         # 18 GB of disk for the weights, written where TMPDIR says

It prints tokens a second, peak memory, and the share of a GRPO step that tools and rewards take, under the paper's
hyper-parameters (profiles/paper.yaml), with adapters, as the whole model with its optimiser fits on no single GPU.
Random weights say nothing sensible: what the policy writes is dictated to it, a token a pass, so that every pass is
made, every tool is called and every image is read as in an earnest run. Images are scaled up to ``--side`` pixels, with
which a trajectory has about the paper's lengths. On a CPU: ``--layers 2 --hidden 64 --side 128 --written 60``.
"""

import argparse
import functools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from cot_builder.corpus.priors import read_priors
from cot_builder.inspection.tools import TOOLS
from cot_builder.params import Params, load_params
from cot_builder.storage.output import Output
from cot_builder.storage.workspace import Workspace
from train import corpus, tiny
from train.collator import count_tokens, make_collator
from train.environment import InspectionEnvironment
from train.grpo import build_trainer, select_prompts
from train.model import load_model, load_processor, make_lora_config
from train.record import silence_logs
from train.truth import read_truth

LAYERS, HIDDEN, VOCABULARY = 36, 4096, 151_936
"""Of Qwen3-VL-8B-Instruct's language model; the other dimensions follow below."""
CALL = '\n<tool_call>\n{"name": "crop", "arguments": {"region": [250, 250, 750, 750]}}\n</tool_call>'


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="units, a multiple of 64")
    parser.add_argument("--side", type=int, default=1024, help="pixels a side of every image, a multiple of 32")
    parser.add_argument("--written", type=int, default=512, help="tokens that the policy writes in a completion")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters; 0 trains every weight")
    parser.add_argument("--steps", type=int, default=2, help="of each training; the last one is measured")
    given = parser.parse_args()
    import torch

    chosen = {"train.lora_rank": given.rank, "grpo.steps": given.steps, "grpo.save_steps": 1000}
    params = load_params("paper", [f"{name}={value}" for name, value in chosen.items()])
    params = _on_one_device(params, torch.cuda.is_available())
    workspace = Workspace()
    rows = corpus.read(workspace.indus_cot)["train"]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        size = make_model(model, corpus.iter_texts(rows), given.layers, given.hidden, given.side)
        print(f"{size / 1e9:.2f} G weights, {given.layers} layers of {given.hidden}, adapters of rank {given.rank}")
        processor = load_processor(str(model))
        sft_step(params, str(model), processor, rows, given.steps, Path(folder))
        grpo_step(params, workspace, str(model), processor, rows, given.written, Path(folder))


def _on_one_device(params: Params, gpu: bool) -> Params:
    grpo = params.grpo.model_copy(update={"batch": params.grpo.group, "accumulation": 1})
    train = params.train if gpu else params.train.model_copy(update={"dtype": "float32"})
    return params.model_copy(update={"grpo": grpo, "train": train})


def make_model(folder: Path, texts: Iterable[str], layers: int, hidden: int, side: int) -> int:
    """Write random weights in 16 bit and a processor that knows ``texts`` to ``folder``; how many weights."""
    tiny.build(folder, texts, 0)
    import torch
    from transformers import AutoConfig, Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

    processor = load_processor(str(folder))
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": side**2, "longest_edge": side**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    whole = hidden == HIDDEN
    head = 128 if whole else 32
    heads = hidden // head
    side_section = head // 2 * 20 // 64
    _set(
        config.text_config,
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        head_dim=head,
        max_position_embeddings=262_144,
        tie_word_embeddings=False,
    )
    config.text_config.rope_parameters |= {
        "rope_theta": 5_000_000.0,
        "mrope_section": [head // 2 - 2 * side_section, side_section, side_section],
    }
    _set(
        config.vision_config,
        depth=27 if whole else layers,
        hidden_size=1152 if whole else hidden,
        intermediate_size=4304 if whole else 4 * hidden,
        num_heads=16 if whole else 4,
        out_hidden_size=hidden,
        patch_size=16,
        num_position_embeddings=48**2,
        deepstack_visual_indexes=[8, 16, 24] if whole else [0],
    )
    config.tie_word_embeddings = False
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config = load_model(str(folder)).generation_config
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def _set(config: Any, **values: Any) -> None:
    for name, value in values.items():
        assert hasattr(config, name), name
        setattr(config, name, value)


def sft_step(params: Params, model: str, processor: Any, rows: Any, steps: int, folder: Path) -> None:
    """Train on the longest trajectories that fit, as stage `sft` does."""
    import torch
    from trl import SFTConfig, SFTTrainer

    found = count_tokens(rows, processor)
    fitting = sorted((length, place) for place, length in enumerate(found) if length <= params.train.max_tokens)
    taken = fitting[-steps * params.sft.batch * params.sft.accumulation :]
    config = SFTConfig(
        output_dir=str(folder / "sft"),
        max_steps=steps,
        per_device_train_batch_size=params.sft.batch,
        gradient_accumulation_steps=params.sft.accumulation,
        learning_rate=params.sft.learning_rate,
        bf16=params.train.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=params.train.gradient_checkpointing,
        remove_unused_columns=False,
        max_length=None,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )
    clock = _clock()
    trainer = SFTTrainer(
        _weights(model, params),
        args=config,
        train_dataset=rows.select([place for _, place in taken]),
        processing_class=processor,
        data_collator=make_collator(processor),
        peft_config=make_lora_config(params.train.lora_rank) if params.train.lora_rank else None,
        callbacks=[clock],
    )
    silence_logs(trainer)
    trainer.train()
    tokens = sum(length for length, _ in taken) / steps
    print(f"SFT step: {clock.last:.2f} s, {tokens:.0f} tokens ({tokens / clock.last:.0f}/s){peak()}")


def grpo_step(
    params: Params, workspace: Workspace, model: str, processor: Any, rows: Any, written: int, folder: Path
) -> None:
    """Reinforce with one group a step, as stage `grpo` does, the policy writing what it is told."""
    from transformers import Qwen3VLForConditionalGeneration

    spent: dict[str, float] = defaultdict(float)
    for name in TOOLS:
        setattr(InspectionEnvironment, name, timed(getattr(InspectionEnvironment, name), "tools", spent))
    Qwen3VLForConditionalGeneration.generate = dictated(
        Qwen3VLForConditionalGeneration.generate, turns(processor, written), spent
    )
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    # What is dictated is a No, and the margin is read after right verdicts alone.
    sound = rows.select([place for place, answer in enumerate(rows.with_format(None)["answer"]) if answer == "No"])
    asked, truth = (
        select_prompts(sound, processor, params.grpo.max_prompt, Output(folder)),
        read_truth(workspace, sound),
    )
    trained = {name for name, source in params.pull.items() if source.role == "train"}
    trainer = build_trainer(params, model, processor, asked, truth, read_priors(workspace, trained), folder / "grpo")
    trainer.reward_funcs = [timed(function, "rewards", spent) for function in trainer.reward_funcs]
    clock = _clock(spent.clear)
    trainer.add_callback(clock)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry][-1]
    assert log["rewards/accuracy_reward/mean"] == 1 and "confidence_gain" in log, "the margin was not read"
    group, calls = params.grpo.group, log["tool_calls"]
    print(
        f"GRPO step: {clock.last:.2f} s, {group} completions of {log['completions/mean_length']:.0f} tokens, "
        f"{calls:.0f} call each, valid {log['valid']:.0%} ({group * written / clock.last:.0f} written/s){peak()}"
    )
    told = ", ".join(f"{name} {100 * spent[name] / clock.last:.1f} %" for name in ("generation", "rewards", "tools"))
    print(f"of the step: {told}; the rewards' part is nearly all the margin, two passes of the policy")


def turns(processor: Any, written: int) -> list[list[int]]:
    """Token ids of a turn that calls a tool and of one that answers, of so many tokens together."""

    def ids(text: str) -> list[int]:
        return processor.tokenizer.encode(text, add_special_tokens=False)

    ends = [f"</think>{CALL}<|im_end|>", "</think><answer>No</answer><|im_end|>"]
    thought = (written - sum(len(ids("<think>" + end)) for end in ends)) // 2
    filling = (ids(" the surface is even and its edge is whole,") * written)[: max(thought, 1)]
    return [[*ids("<think>"), *filling, *ids(end)] for end in ends]


def dictated(generate: Callable[..., Any], texts: list[list[int]], spent: dict[str, float]) -> Callable[..., Any]:
    """``generate`` with every token but the dictated one made impossible; the turns take their turns."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    class Dictation(LogitsProcessor):
        def __init__(self, text: list[int]) -> None:
            self._left = iter(text)

        def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
            said = torch.full_like(scores, -torch.inf)
            said[:, next(self._left)] = 0.0
            return said

    called = count()

    @functools.wraps(generate)
    def spoken(*arguments: Any, **options: Any) -> Any:
        words = LogitsProcessorList([Dictation(texts[next(called) % len(texts)])])
        return timed(generate, "generation", spent)(*arguments, **options, logits_processor=words)

    return spoken


def timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    """``function``, adding what its calls take to ``spent``, in seconds."""

    @functools.wraps(function)
    def clocked(*arguments: Any, **options: Any) -> Any:
        _wait()
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            _wait()
            spent[name] += time.perf_counter() - started

    return clocked


def _clock(on_begin: Callable[[], None] | None = None) -> Any:
    """A callback whose ``last`` is what the last step took, in seconds."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        last = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if on_begin:
                on_begin()
            _wait()
            self._started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            _wait()
            self.last = time.perf_counter() - self._started

    return Clock()


def _weights(model: str, params: Params) -> Any:
    return load_model(model, dtype=params.train.dtype if params.train.lora_rank else "float32")


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> str:
    """Words for the most memory taken since the last time; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return ""
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return f", peak {most:.1f} GiB"


if __name__ == "__main__":
    main()
