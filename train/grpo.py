"""Stage `grpo`: reinforcement learning on TRL with the real tools in the loop, starting from the model of `sft`.

The method is GRPO (arXiv 2402.03300) with the reward of arXiv 2605.20682.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from cot_builder.corpus.priors import read_priors
from cot_builder.corpus.validated import corpus_sha256
from cot_builder.inspection.parsing import RESPONSE_TEMPLATE, parse_completion
from cot_builder.inspection.rendering import Message, prompt, render_verdict
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.params import Params
from cot_builder.storage.output import Output, stage_output, staging_path
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.trajectory import Verdict
from train import card, corpus, processes, rollouts
from train.collator import count_tokens, decode_image
from train.environment import InspectionEnvironment
from train.guard import (
    CHECKPOINTS_KEPT,
    add_nan_check,
    explain_out_of_memory,
    find_last_checkpoint,
    make_checkpoint_marker,
)
from train.margin import cut_after_observation, find_verdict_tokens, margin_gain, measure_margins
from train.model import identify_model, load_policy, load_processor, locate_model, make_lora_config, merge_adapters
from train.plan import RolloutPlan, count_rollout_updates, plan_rollouts, world_size
from train.record import make_recorder, silence_logs, write_curves, write_metrics
from train.rewards import TERMS, RewardFunction, reward_functions, reward_parameters
from train.rewards.accuracy import accuracy_reward
from train.sft import base_model
from train.truth import Truth, read_truth

MAX_ROLLOUTS = 8
"""Limit on the rollouts kept of a step."""
CHECKPOINTS = "checkpoints"
TERM_COLUMNS = {term.name: term.column for term in TERMS}
PLOTTED_COLUMNS = ("kl", *TERM_COLUMNS.values())
"""Columns of the curve that `dvc plots` draws: written even if a weight of 0 leaves them empty."""


def grpo(params: Params, workspace: Workspace, show: Callable[[Path, Path], None] | None = None) -> None:
    """Write ``models/grpo`` (the weights, their processor, and ``rollouts`` as JSON) and ``reports/grpo``.

    A killed run resumes from its last complete checkpoint when it is started again.

    Args:
        params: Parameters of the run.
        workspace: The project.
        show: Called with the folder of rollouts and the folder of reports after each step whose rollouts were kept.

    Raises:
        IndusCotError: the batch is not a multiple of the group; several GPUs are visible but no launcher started the
            processes; vLLM serves several processes; the corpus or its truth is missing or damaged; the model cannot
            be loaded, or is the one to be written; too few prompts are short enough; memory ran out; the loss is not a
            number.
    """
    settings = params.grpo
    # Check this first: without a launcher, the next check would count the groups of a single process.
    processes.check_launch("grpo")
    check_settings(params, world_size())
    # Silence TRL's warning at every start that environments are experimental.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trained = {name for name, source in params.pull.items() if source.role == "train"}
    source = _locate_start(params, workspace)
    with _open_output(params, workspace, source) as output, explain_out_of_memory("grpo"):
        processor = load_processor(source)
        found = _read_rows(params, workspace)
        rows = select_prompts(found, processor, settings.max_prompt, output)
        count_rollout_updates(params, world_size(), len(rows))
        truth, priors = read_truth(workspace, found), read_priors(workspace, trained)
        kept = (lambda folder: show(folder, workspace.reports)) if show else None
        trainer = build_trainer(params, source, processor, rows, truth, priors, output.path, kept)
        trainer.add_callback(make_recorder("grpo", workspace.reports, PLOTTED_COLUMNS, TERM_COLUMNS))
        checkpoint = find_last_checkpoint(output.path / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _finish(trainer, params, workspace, source, output)


def make_plan(params: Params, workspace: Workspace) -> RolloutPlan:
    """Estimate what a run takes, without training or writing anything.

    Before `sft` has run, the plan counts the base model of `sft` instead of its result.

    Raises:
        IndusCotError: the batch is not a multiple of the group; the corpus or the model is invalid; there are fewer
            prompts than an update takes.
    """
    check_settings(params, world_size())
    source, named = _locate_start(params, workspace), params.grpo.model
    with tempfile.TemporaryDirectory() as folder:
        if workspace.root / source == workspace.sft and not workspace.sft.is_dir():
            source = base_model(params, workspace, Path(folder) / "base")
            named += f" (not there yet; counted as {params.train.model})"
        found = count_prompt_tokens(_read_rows(params, workspace), load_processor(source))
        return plan_rollouts(params, source, named, found)


def _locate_start(params: Params, workspace: Workspace) -> str:
    return locate_model(params.grpo.model, workspace.root, workspace.grpo, "grpo.model")


def _read_rows(params: Params, workspace: Workspace) -> Any:
    evaluated = {name for name, source in params.pull.items() if source.role == "evaluate"}
    return corpus.read(workspace.indus_cot, "trajectory", evaluated)["train"]


def check_settings(params: Params, processes: int) -> None:
    """Refuse settings that cannot be trained, before anything is read.

    Raises:
        IndusCotError: the batch is not a multiple of the group; several processes share a vLLM server; the target is
            that of the control arm.
    """
    settings = params.grpo
    if params.train.target == "labels":
        raise IndusCotError(
            "grpo: train.target is labels, the control arm of `sft`, which writes a verdict without thoughts and tool "
            "calls; `grpo` reinforces exactly these; set train.target=trajectory"
        )
    # TRL slices the server's answers as if every rank had sent equally many requests. In the tool loop they do not.
    if settings.rollouts == "vllm-server" and processes > 1:
        raise IndusCotError(
            f"grpo.rollouts: vllm-server with {processes} processes: TRL may give one process what the server wrote "
            "for another; set grpo.rollouts=vllm-colocate or transformers, or train in one process"
        )
    completions = processes * settings.batch * settings.accumulation
    if completions % settings.group:
        raise IndusCotError(
            f"grpo: {processes} processes x grpo.batch {settings.batch} x grpo.accumulation {settings.accumulation} = "
            f"{completions} completions an update, no multiple of grpo.group {settings.group}: the completions of one "
            "prompt form a group; change one of these numbers"
        )


def select_prompts(found: Any, processor: Any, most: int, output: Output) -> Any:
    """Return the prompts of a split that are short enough.

    Args:
        found: The rows of a split, from :func:`train.corpus.read`.
        processor: Counts tokens.
        most: Token limit of a prompt; rows with a longer prompt are left out.
        output: Records the rows that were left out.

    Returns:
        A `datasets.Dataset` with the columns ``id``, ``prompt`` and ``image`` (PIL, RGB) only.

    Raises:
        IndusCotError: no prompt is short enough.
    """
    plain = found.with_format(None).select_columns(["id", "category", "view", "images"])
    kept = []
    for place, (row_id, length) in enumerate(zip(plain["id"], count_prompt_tokens(found, processor), strict=True)):
        if length <= most:
            kept.append(place)
        else:
            output.leave_out("prompt too long", row_id, f"{length} tokens, grpo.max_prompt is {most}")
    if not kept:
        raise IndusCotError(f"grpo: no prompt has at most grpo.max_prompt = {most} tokens; raise it")
    return plain.select(kept).with_transform(_to_prompts)


def count_prompt_tokens(found: Any, processor: Any) -> list[int]:
    """Count the tokens of the prompt of each row, image tokens included."""
    # Counting needs only the size of the image, so nothing is decoded here.
    asked = (
        {"messages": prompt(row["category"], row["view"]), "images": row["images"][:1], "tools": tool_schemas()}
        for row in found.with_format(None).select_columns(["category", "view", "images"])
    )
    return count_tokens(asked, processor)


def _to_prompts(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {
        "id": list(rows["id"]),
        "prompt": [prompt(*key) for key in zip(rows["category"], rows["view"], strict=True)],
        "image": [
            decode_image(images[0]["bytes"], name) for name, images in zip(rows["id"], rows["images"], strict=True)
        ],
    }


def build_trainer(
    params: Params,
    model: str,
    processor: Any,
    rows: Any,
    truth: Truth,
    priors: Mapping[tuple[str, str], str],
    folder: Path,
    show: Callable[[Path], None] | None = None,
) -> Any:
    """Build the trainer.

    Args:
        params: Parameters of the run.
        model: Folder, or name on the Hub, of the model to start from.
        processor: Its processor; this function sets its response template.
        rows: Rows with ``id``, ``prompt`` and ``image``.
        truth: Truth by row id; only the rewards see it.
        priors: Normalcy texts by (category, view), for the tool `prior`.
        folder: Folder for checkpoints and rollouts.
        show: Called with the folder of rollouts after each step whose rollouts were kept.
    """
    processor.tokenizer.response_template = RESPONSE_TEMPLATE
    find_verdict_tokens(processor)
    # The margin needs the trainer's policy, but the trainer takes its rewards in the constructor: fill the list later.
    holder: list[Any] = []
    functions, weights = reward_functions(params.grpo.reward, partial(_measure_gains, holder, params.grpo.margin_batch))
    judge = TruthScorer(truth, dict(zip((function.__name__ for function in functions), weights, strict=True)))
    # Make the configuration before loading: under ZeRO-3 it makes `from_pretrained` shard the weights.
    arguments = _make_config(params, weights, processor, folder / CHECKPOINTS)
    policy = load_policy(model, params.train)
    trainer = add_nan_check(make_trainer_class())(
        policy,
        reward_funcs=[judge.with_truth(function) for function in functions],
        args=arguments,
        train_dataset=rows,
        processing_class=processor,
        environment_factory=partial(InspectionEnvironment, priors),
        peft_config=make_lora_config(params.train.lora_rank) if params.train.lora_rank else None,
    )
    holder.append(trainer)
    silence_logs(trainer)
    trainer.add_callback(make_checkpoint_marker())
    trainer.add_callback(_make_sampler(judge, folder / "rollouts", params.grpo.sample_steps, show))
    return trainer


def _make_config(params: Params, weights: list[float], processor: Any, folder: Path) -> Any:
    import torch
    from trl import GRPOConfig

    settings = params.grpo
    vllm = settings.rollouts.partition("-")[2]
    if vllm and importlib.util.find_spec("vllm") is None:
        raise IndusCotError(
            f"grpo.rollouts: {settings.rollouts} needs vLLM, which is not installed: `pip install vllm`, or set "
            "grpo.rollouts=transformers"
        )
    return GRPOConfig(
        output_dir=str(folder),
        trust_remote_code=False,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        num_generations=settings.group,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        beta=settings.kl,
        loss_type="grpo",
        scale_rewards=settings.scale_rewards,
        reward_weights=weights,
        temperature=settings.temperature,
        max_completion_length=settings.max_completion,
        generation_kwargs=_suppress_placeholders(processor, vllm=bool(vllm)),
        max_tool_calling_iterations=params.draft.max_calls,
        use_vllm=bool(vllm),
        vllm_mode=vllm or "colocate",
        vllm_max_model_length=settings.max_prompt + settings.max_completion if vllm else None,
        gradient_checkpointing=params.train.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        bf16=params.train.dtype == "bfloat16",
        seed=params.run.seed,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=CHECKPOINTS_KEPT,
        logging_steps=1,
        # With the filter on, a NaN would be logged as the mean of the earlier losses.
        logging_nan_inf_filter=False,
        # Every batch has images, so every weight is used; the search for unused ones would walk the graph each step.
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
    )


def _suppress_placeholders(processor: Any, vllm: bool) -> dict[str, Any]:
    """Return sampler settings that keep image and video placeholders out of the policy's output.

    TRL suppresses only image placeholders, and only with transformers. A video placeholder fails the next forward pass
    too, because there is no video for it.
    """
    placeholders = [processor.image_token_id, processor.video_token_id]
    if vllm:
        return {"bad_words": processor.tokenizer.convert_ids_to_tokens(placeholders)}
    return {"suppress_tokens": placeholders}


def make_trainer_class() -> type:
    """Return TRL's trainer with two corrections: the tool schemas of the corpus, and ranks that generate in step."""
    import torch
    from transformers import PreTrainedModel
    from trl import GRPOTrainer

    class InspectionTrainer(GRPOTrainer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            # The schema that TRL derives lacks the empty `required` list of a tool without required arguments. The
            # corpus has it, so replace the schemas; otherwise the prompts would differ from those of `sft`.
            assert set(self._env_tools) == {None}
            self._env_tools[None] = tool_schemas()
            self._last_request: tuple[Any, ...] = ()
            self._in_tool_loop = False

        def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
            if self.is_fsdp_enabled:
                # With this flag, generation goes on until all ranks are finished. transformers sets it only on models
                # that it sharded itself.
                for module in self.model.modules():
                    module._is_fsdp_managed_module = isinstance(module, PreTrainedModel)
            if self._in_tool_loop:
                self._any_rank(True)
            else:
                self._last_request = (arguments, options)
            return super()._generate_single_turn(*arguments, **options)

        def _tool_call_loop(self, *arguments: Any, **options: Any) -> Any:
            # Ranks call tools a different number of times, but generation with sharded weights waits for all ranks.
            # A rank that is finished repeats its last request with the others and discards the result.
            self._in_tool_loop = True
            done = super()._tool_call_loop(*arguments, **options)
            self._in_tool_loop = False
            arguments, options = self._last_request
            while self._any_rank(False):
                super()._generate_single_turn(*arguments, **options)
            self._last_request = ()
            return done

        def _any_rank(self, generates: bool) -> bool:
            if self.accelerator.num_processes == 1:
                return False
            flag = torch.tensor(int(generates), device=self.accelerator.device)
            return bool(self.accelerator.reduce(flag, reduction="sum").item())

    return InspectionTrainer


def _measure_gains(
    trainer: Sequence[Any],
    at_once: int,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[Message]],
    id: Sequence[str],
    answer: Sequence[str],
    log_metric: Callable[[str, float], None],
    **_: Any,
) -> list[float]:
    """Measure by how much calls and observations raised the margin of the true answer: one value per completion.

    It is measured only for completions with a right verdict after an observation; the others get 0. All ranks run
    equally many passes, as many as the rank with the most of these completions needs.
    """
    (policy,) = trainer
    observed = [any(message["role"] == "tool" for message in written) for written in completions]
    right = accuracy_reward(completions, answer)
    due = [place for place, (seen, score) in enumerate(zip(observed, right, strict=True)) if seen and score]
    most = _max_over_ranks(policy.accelerator, len(due))
    found = [0.0] * len(observed)
    if most == 0:
        return found
    # The completions of a group share their prompt, so its margin is measured once.
    asked = {id[place]: list(prompts[place]) for place in due}
    groups = min(most, max_groups_per_rank(len(observed), policy.num_generations, policy.accelerator.num_processes))
    assert len(asked) <= groups, "ranks hold whole batches in the order of the groups"
    alone = _measure_padded(policy, list(asked.values()), groups, prompts[0], at_once)
    low = dict(zip(asked, alone, strict=False))
    chats = [cut_after_observation(prompts[place], completions[place]) for place in due]
    for place, high in zip(due, _measure_padded(policy, chats, most, prompts[0], at_once), strict=False):
        found[place] = margin_gain(answer[place], low[id[place]], high)
    if due:
        log_metric("confidence_gain", sum(found[place] for place in due) / len(due))
    return found


def _measure_padded(
    policy: Any, chats: Sequence[Sequence[Message]], count: int, filling: Sequence[Message], at_once: int
) -> list[float]:
    """Measure the margins of ``chats``, padded with copies of ``filling`` to ``count`` chats."""
    more = [list(filling)] * (count - len(chats))
    return measure_margins(policy.model, policy.processing_class, [*chats, *more], at_once)


def _max_over_ranks(accelerator: Any, count: int) -> int:
    """Return the largest ``count`` of all ranks."""
    import torch

    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def max_groups_per_rank(completions: int, group: int, processes: int) -> int:
    """Return the largest number of groups that the completions of one rank belong to.

    Ranks hold consecutive slices of the completions, so a slice may begin or end within a group.
    """
    starts = range(0, completions * processes, completions)
    return max((start + completions - 1) // group - start // group + 1 for start in starts)


class TruthScorer:
    """Passes the truth to reward functions, and keeps the last batch and its scores for the rollout page."""

    def __init__(self, truth: Truth, weights: Mapping[str, float]) -> None:
        self._truth = truth
        self._weights = weights
        self._batch: dict[str, Any] = {}
        self._terms: dict[str, list[float]] = {}

    def with_truth(self, function: RewardFunction) -> RewardFunction:
        """Wrap ``function`` so that its columns include the truth of each row, looked up by row id."""

        @wraps(function)
        def scored(*, completions: Any, id: Sequence[str], **columns: Any) -> list[float]:
            if function.__name__ == next(iter(self._weights)):
                self._start_batch(completions=completions, id=id, **columns)
            true = [self._truth[row] for row in id]
            known = {name: [row[name] for row in true] for name in ("answer", "boxes", "defect_type")}
            scores = function(completions=completions, id=id, **columns, **known)
            self._terms[function.__name__] = list(scores)
            return scores

        return scored

    def _start_batch(self, *, completions: Any, id: Any, prompts: Any, log_metric: Any, **_: Any) -> None:
        self._batch, self._terms = {"id": id, "prompts": prompts, "completions": completions}, {}
        readings = [parse_completion(written) for written in completions]
        observations = sum(message["role"] == "tool" for written in completions for message in written)
        log_metric("valid", sum(not reading.faults for reading in readings) / len(readings))
        log_metric("tool_calls", sum(reading.calls for reading in readings) / len(readings))
        if observations:
            refused = observations - sum(reading.observed for reading in readings)
            log_metric("calls_refused", refused / observations)

    def sample_rollouts(self) -> list[rollouts.Rollout]:
        """Return the first rollouts of the last batch."""
        batch = self._batch
        found = []
        for place, row in enumerate(batch.get("id", ())[:MAX_ROLLOUTS]):
            terms = {name.removesuffix("_reward"): scores[place] for name, scores in self._terms.items()}
            reward = sum(self._weights[name] * scores[place] for name, scores in self._terms.items())
            true = self._truth[row]
            # Skip validation: a defect whose place was never published has no boxes, which a Verdict does not allow.
            verdict = Verdict.model_construct(**{**true, "boxes": [tuple(box) for box in true["boxes"]]})
            found.append(
                rollouts.rollout_to_json(
                    row,
                    batch["prompts"][place],
                    batch["completions"][place],
                    render_verdict(verdict),
                    {"reward": reward, **terms},
                )
            )
        return found


def _make_sampler(judge: TruthScorer, folder: Path, every: int, show: Callable[[Path], None] | None) -> Any:
    from transformers import TrainerCallback

    class Sampler(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            due = state.global_step % every == 0 or state.global_step in (1, state.max_steps)
            if state.is_world_process_zero and due:
                rollouts.save_step(folder, state.global_step, judge.sample_rollouts())
                if show:
                    show(folder)

    return Sampler()


FIGURE_KEYS = {
    "reward": "reward",
    **{term.name: term.column for term in TERMS},
    "valid": "valid",
    "tool_calls": "tool_calls",
    "calls_refused": "calls_refused",
    "confidence_gain": "confidence_gain",
    "tokens_written": "completions/mean_length",
    "cut_off": "completions/clipped_ratio",
    "kl": "kl",
    "loss": "loss",
}
"""Maps the name of each reported figure to TRL's log key."""


def _finish(trainer: Any, params: Params, workspace: Workspace, start: str, output: Output) -> None:
    """Write weights (adapters are merged into those of ``start``), figures, curve and card; every process calls it."""
    adapters, rank = output.path / "adapters", params.train.lora_rank
    trainer.save_model(str(adapters if rank else output.path))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if rank:
        merge_adapters(start, adapters, output.path, "float32")
    trainer.processing_class.save_pretrained(output.path)
    # Don't publish the setup of this machine with the weights.
    (output.path / "training_args.bin").unlink(missing_ok=True)
    output.counts |= {"prompts": len(trainer.train_dataset), "steps": trainer.state.global_step}
    figures = _summarise(trainer.state.log_history)
    write_curves(trainer.state.log_history, workspace.reports, "grpo", PLOTTED_COLUMNS, TERM_COLUMNS)
    write_metrics(figures, workspace.reports / "grpo.json")
    card.write(output.path, "grpo", params, workspace, figures)
    # Delete the checkpoints last, so that an error above does not lose the training.
    for name in (CHECKPOINTS, "adapters"):
        shutil.rmtree(output.path / name, ignore_errors=True)


def _summarise(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the logs over the first and the last quarter of a run, at least one step each."""
    logs = [entry for entry in history if "loss" in entry]
    part = max(1, len(logs) // 4)

    def mean(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
        values = [entry[key] for entry in entries if entry.get(key) is not None]
        return sum(values) / len(values) if values else None

    return {
        "steps": logs[-1]["step"] if logs else 0,
        "first": {name: mean(logs[:part], key) for name, key in FIGURE_KEYS.items()},
        "last": {name: mean(logs[-part:], key) for name, key in FIGURE_KEYS.items()},
    }


@contextmanager
def _open_output(params: Params, workspace: Workspace, source: str) -> Iterator[Output]:
    """Open the stage's output: the main process creates and commits it, the others only get its path."""
    state, target, strict = processes.get_state(), workspace.grpo.absolute(), params.run.strict
    if not state.is_main_process:
        state.wait_for_everyone()
        yield Output(staging_path(target), strict)
        state.wait_for_everyone()
        return
    shared = params.train.model_dump(include={"lora_rank", "dtype", "gradient_checkpointing", "freeze_vision"})
    # Everything that changes the rollouts: a killed run resumes only if these settings are equal.
    settings = {
        "grpo": params.grpo.model_dump() | {"reward": reward_parameters() | params.grpo.reward},
        "train": shared,
        "run": params.run.model_dump(),
        "draft": params.draft.model_dump(include={"max_calls"}),
        "processes": world_size(),
    }
    inputs = {
        "corpus": corpus_sha256(workspace.indus_cot),
        "supervision": file_hash(workspace.select / "supervision.parquet"),
        "prior": file_hash(workspace.prior / "prior.parquet"),
        **identify_model(source),
        **card.library_versions(),
    }
    with stage_output(target, stage="grpo", params=settings, inputs=inputs, strict=strict, resumable=True) as output:
        state.wait_for_everyone()
        yield output
        state.wait_for_everyone()
