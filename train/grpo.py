"""Stage `grpo`: reinforcement learning with the real tools in the loop, from the model that `sft` left (GRPO, arXiv
2402.03300, with the reward of arXiv 2605.20682), on TRL."""

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
from train.collator import lengths, picture
from train.environment import InspectionEnvironment
from train.guard import KEPT, last_whole, marker, memory_explained, stops_at_nan
from train.margin import gain, margins, until_observed, ways
from train.model import identity, load_policy, load_processor, located, lora, merge
from train.plan import RolloutPlan, rollout_plan, rollout_updates, world_size
from train.record import quiet, recorder, write_curves, write_metrics
from train.rewards import TERMS, RewardFunction, reward_functions, reward_parameters
from train.rewards.accuracy import accuracy_reward
from train.sft import base_model
from train.truth import Truth, read_truth

SHOWN = 8
"""Rollouts kept of a step, at most."""
CHECKPOINTS = "checkpoints"
TERM_COLUMNS = {term.name: term.column for term in TERMS}
PLOTTED = ("kl", *TERM_COLUMNS.values())
"""Columns of the curve that `dvc plots` draws: there, if empty, also where a weight of 0 leaves them out."""


def grpo(params: Params, workspace: Workspace, show: Callable[[Path, Path], None] | None = None) -> None:
    """Write ``models/grpo``: the weights, their processor, and ``rollouts`` as JSON; and ``reports/grpo``.

    A run that was killed goes on from its last whole checkpoint when it is started again.

    Args:
        params: Of the run.
        workspace: The project.
        show: Called with the folder of rollouts and that of reports whenever rollouts were kept, to show them.

    Raises:
        IndusCotError: the groups do not divide the batch; several GPUs, or processes, are to do what one can; the
            corpus or its truth is not there or damaged; the model cannot be loaded, or is the one to be written; no
            prompt is short enough, or too few are; memory ran out; the loss is not a number.
    """
    settings = params.grpo
    # First: started without a launcher, groups would be counted of one process.
    processes.check_launch("grpo")
    check(params, world_size())
    # TRL says that environments are experimental at every start.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trained = {name for name, source in params.pull.items() if source.role == "train"}
    source = _source(params, workspace)
    with _output(params, workspace, source) as output, memory_explained("grpo"):
        processor = load_processor(source)
        found = _rows(params, workspace)
        rows = prompts(found, processor, settings.max_prompt, output)
        rollout_updates(params, world_size(), len(rows))
        truth, priors = read_truth(workspace, found), read_priors(workspace, trained)
        kept = (lambda folder: show(folder, workspace.reports)) if show else None
        trainer = build(params, source, processor, rows, truth, priors, output.path, kept)
        trainer.add_callback(recorder("grpo", workspace.reports, PLOTTED, TERM_COLUMNS))
        checkpoint = last_whole(output.path / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _finish(trainer, params, workspace, source, output)


def print_plan(params: Params, workspace: Workspace) -> RolloutPlan:
    """What a run would take; nothing is trained or written.

    Before `sft` has run, the model that it begins from stands for the one that it leaves.

    Raises:
        IndusCotError: the groups do not divide the batch; the corpus or the model does not fit; there are fewer
            prompts than an update takes.
    """
    check(params, world_size())
    source, named = _source(params, workspace), params.grpo.model
    with tempfile.TemporaryDirectory() as folder:
        if workspace.root / source == workspace.sft and not workspace.sft.is_dir():
            source = base_model(params, workspace, Path(folder) / "base")
            named += f" (not there yet; counted as {params.train.model})"
        found = prompt_lengths(_rows(params, workspace), load_processor(source))
        return rollout_plan(params, source, named, found)


def _source(params: Params, workspace: Workspace) -> str:
    return located(params.grpo.model, workspace.root, workspace.grpo, "grpo.model")


def _rows(params: Params, workspace: Workspace) -> Any:
    evaluated = {name for name, source in params.pull.items() if source.role == "evaluate"}
    return corpus.read(workspace.indus_cot, "trajectory", evaluated)["train"]


def check(params: Params, processes: int) -> None:
    """Refuse what cannot be trained, before anything is read.

    Raises:
        IndusCotError: the batch cannot be cut into groups; rollouts on a server are for several processes; the target
            is that of the control arm.
    """
    settings = params.grpo
    if params.train.target == "labels":
        raise IndusCotError(
            "grpo: train.target is labels, the control arm of `sft`: a verdict without thoughts and tools, which are "
            "what is reinforced here; set train.target=trajectory"
        )
    # TRL sends every rank the slice of the answers that it would have if all had asked as often, and in the loop of
    # tools they have not.
    if settings.rollouts == "vllm-server" and processes > 1:
        raise IndusCotError(
            f"grpo.rollouts: vllm-server with {processes} processes: TRL may give one process what the server wrote "
            "for another; set grpo.rollouts=vllm-colocate or transformers, or train in one process"
        )
    completions = processes * settings.batch * settings.accumulation
    if completions % settings.group:
        raise IndusCotError(
            f"grpo: {processes} processes x grpo.batch {settings.batch} x grpo.accumulation {settings.accumulation} = "
            f"{completions} completions an update, no multiple of grpo.group {settings.group}: completions of one "
            "prompt are compared with each other; change one of these so that it is"
        )


def prompts(found: Any, processor: Any, most: int, output: Output) -> Any:
    """What the policy is asked.

    Args:
        found: The rows of a split, as :func:`train.corpus.read` gives them.
        processor: Counts tokens.
        most: Tokens of a prompt; rows with a longer one are left out.
        output: Names what was left out.

    Returns:
        A `datasets.Dataset` of ``id``, ``prompt`` and ``image`` (PIL, RGB) and nothing else.

    Raises:
        IndusCotError: no prompt is short enough.
    """
    plain = found.with_format(None).select_columns(["id", "category", "view", "images"])
    kept = []
    for place, (row_id, length) in enumerate(zip(plain["id"], prompt_lengths(found, processor), strict=True)):
        if length <= most:
            kept.append(place)
        else:
            output.leave_out("prompt too long", row_id, f"{length} tokens, grpo.max_prompt is {most}")
    if not kept:
        raise IndusCotError(f"grpo: no prompt has at most grpo.max_prompt = {most} tokens; raise it")
    return plain.select(kept).with_transform(_asked)


def prompt_lengths(found: Any, processor: Any) -> list[int]:
    """Tokens of the prompt of each row, image tokens included."""
    # Only the size of the first image is looked at, so that nothing is decoded here.
    asked = (
        {"messages": prompt(row["category"], row["view"]), "images": row["images"][:1], "tools": tool_schemas()}
        for row in found.with_format(None).select_columns(["category", "view", "images"])
    )
    return lengths(asked, processor)


def _asked(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {
        "id": list(rows["id"]),
        "prompt": [prompt(*key) for key in zip(rows["category"], rows["view"], strict=True)],
        "image": [picture(images[0]["bytes"], name) for name, images in zip(rows["id"], rows["images"], strict=True)],
    }


def build(
    params: Params,
    model: str,
    processor: Any,
    rows: Any,
    truth: Truth,
    priors: Mapping[tuple[str, str], str],
    folder: Path,
    show: Callable[[Path], None] | None = None,
) -> Any:
    """The trainer, ready to be run.

    Args:
        params: Of the run.
        model: Folder, or name on the Hub, of what it starts from.
        processor: Its processor; is told how to take a turn apart.
        rows: ``id``, ``prompt`` and ``image``.
        truth: By id; the rewards alone are given it.
        priors: Normalcy texts by (category, view), which a tool looks up.
        folder: For checkpoints and rollouts.
        show: Called with the folder of rollouts whenever some were kept.
    """
    processor.tokenizer.response_template = RESPONSE_TEMPLATE
    ways(processor)
    # The margin is of the policy as the trainer holds it, and the trainer wants its rewards first.
    holder: list[Any] = []
    functions, weights = reward_functions(params.grpo.reward, partial(_gains, holder, params.grpo.margin_batch))
    judge = Judge(truth, dict(zip((function.__name__ for function in functions), weights, strict=True)))
    # The arguments come first: under ZeRO-3 they make `from_pretrained` shard the weights as they are read.
    arguments = _arguments(params, weights, processor, folder / CHECKPOINTS)
    policy = load_policy(model, params.train)
    trainer = stops_at_nan(inspection_trainer())(
        policy,
        reward_funcs=[judge.score(function) for function in functions],
        args=arguments,
        train_dataset=rows,
        processing_class=processor,
        environment_factory=partial(InspectionEnvironment, priors),
        peft_config=lora(params.train.lora_rank) if params.train.lora_rank else None,
    )
    holder.append(trainer)
    quiet(trainer)
    trainer.add_callback(marker())
    trainer.add_callback(_sampler(judge, folder / "rollouts", params.grpo.sample_steps, show))
    return trainer


def _arguments(params: Params, weights: list[float], processor: Any, folder: Path) -> Any:
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
        generation_kwargs=_never_sampled(processor, vllm=bool(vllm)),
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
        save_total_limit=KEPT,
        logging_steps=1,
        # A filter would show a NaN as the mean of what came before.
        logging_nan_inf_filter=False,
        # Every batch has images, so that no weight is ever left out of a pass; looking for one takes a walk each step.
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
    )


def _never_sampled(processor: Any, vllm: bool) -> dict[str, Any]:
    """Settings of the sampler that keep placeholders of pictures out of what the policy says.

    TRL does so for images, with transformers alone; a video's placeholder stops the next pass as well, since no video
    belongs to it.
    """
    placeholders = [processor.image_token_id, processor.video_token_id]
    if vllm:
        return {"bad_words": processor.tokenizer.convert_ids_to_tokens(placeholders)}
    return {"suppress_tokens": placeholders}


def inspection_trainer() -> type:
    """TRL's trainer with two things set right: the tools as the corpus shows them, and ranks that turn together."""
    import torch
    from transformers import PreTrainedModel
    from trl import GRPOTrainer

    class InspectionTrainer(GRPOTrainer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            # Derived from the methods, the schema of a tool without required arguments would lack the empty list of
            # them that the corpus has, and no prompt would be the one that was trained.
            assert set(self._env_tools) == {None}
            self._env_tools[None] = tool_schemas()
            self._turn: tuple[Any, ...] = ()
            self._turning = False

        def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
            if self.is_fsdp_enabled:
                # Only of models that transformers itself sharded does it know that a rank whose completions have
                # ended goes on until the others' have.
                for module in self.model.modules():
                    module._is_fsdp_managed_module = isinstance(module, PreTrainedModel)
            if self._turning:
                self._anyone(True)
            else:
                self._turn = (arguments, options)
            return super()._generate_single_turn(*arguments, **options)

        def _tool_call_loop(self, *arguments: Any, **options: Any) -> Any:
            # Ranks call tools a different number of times, while generation with sharded weights waits for all of
            # them: who is done takes part in the others' turns and throws the result away.
            self._turning = True
            done = super()._tool_call_loop(*arguments, **options)
            self._turning = False
            again, named = self._turn
            while self._anyone(False):
                super()._generate_single_turn(*again, **named)
            self._turn = ()
            return done

        def _anyone(self, turns: bool) -> bool:
            if self.accelerator.num_processes == 1:
                return False
            flag = torch.tensor(int(turns), device=self.accelerator.device)
            return bool(self.accelerator.reduce(flag, reduction="sum").item())

    return InspectionTrainer


def _gains(
    trainer: Sequence[Any],
    at_once: int,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[Message]],
    id: Sequence[str],
    answer: Sequence[str],
    log_metric: Callable[[str, float], None],
    **_: Any,
) -> list[float]:
    """By how much calls and observations raised the margin of the true answer, a value a completion.

    Read only where the reward asks for it, after a right verdict with an observation before it; elsewhere 0. Every
    rank runs the policy as often as the one with the most of these.
    """
    (policy,) = trainer
    observed = [any(message["role"] == "tool" for message in written) for written in completions]
    right = accuracy_reward(completions, answer)
    due = [place for place, (seen, score) in enumerate(zip(observed, right, strict=True)) if seen and score]
    most = _most(policy.accelerator, len(due))
    found = [0.0] * len(observed)
    if most == 0:
        return found
    # Completions of a group share their prompt.
    asked = {id[place]: list(prompts[place]) for place in due}
    groups = min(most, groups_of_a_rank(len(observed), policy.num_generations, policy.accelerator.num_processes))
    assert len(asked) <= groups, "ranks hold whole batches in the order of the groups"
    alone = _read(policy, list(asked.values()), groups, prompts[0], at_once)
    low = dict(zip(asked, alone, strict=False))
    chats = [until_observed(prompts[place], completions[place]) for place in due]
    for place, high in zip(due, _read(policy, chats, most, prompts[0], at_once), strict=False):
        found[place] = gain(answer[place], low[id[place]], high)
    if due:
        log_metric("confidence_gain", sum(found[place] for place in due) / len(due))
    return found


def _read(
    policy: Any, chats: Sequence[Sequence[Message]], count: int, filling: Sequence[Message], at_once: int
) -> list[float]:
    """Margins of ``chats``, and of so many more that there are ``count``."""
    more = [list(filling)] * (count - len(chats))
    return margins(policy.model, policy.processing_class, [*chats, *more], at_once)


def _most(accelerator: Any, count: int) -> int:
    """The largest ``count`` of all ranks."""
    import torch

    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def groups_of_a_rank(completions: int, group: int, processes: int) -> int:
    """Groups that the rank with the most of them has completions of: ranks follow each other through the groups."""
    starts = range(0, completions * processes, completions)
    return max((start + completions - 1) // group - start // group + 1 for start in starts)


class Judge:
    """Gives rewards the truth they need, and keeps the last batch for who wants to look at it."""

    def __init__(self, truth: Truth, weights: Mapping[str, float]) -> None:
        self._truth = truth
        self._weights = weights
        self._batch: dict[str, Any] = {}
        self._terms: dict[str, list[float]] = {}

    def score(self, function: RewardFunction) -> RewardFunction:
        """``function`` with the truth of each row, by the row's id, among its columns."""

        @wraps(function)
        def scored(*, completions: Any, id: Sequence[str], **columns: Any) -> list[float]:
            if function.__name__ == next(iter(self._weights)):
                self._begin(completions=completions, id=id, **columns)
            true = [self._truth[row] for row in id]
            known = {name: [row[name] for row in true] for name in ("answer", "boxes", "defect_type")}
            scores = function(completions=completions, id=id, **columns, **known)
            self._terms[function.__name__] = list(scores)
            return scores

        return scored

    def _begin(self, *, completions: Any, id: Any, prompts: Any, log_metric: Any, **_: Any) -> None:
        self._batch, self._terms = {"id": id, "prompts": prompts, "completions": completions}, {}
        readings = [parse_completion(written) for written in completions]
        observations = sum(message["role"] == "tool" for written in completions for message in written)
        log_metric("valid", sum(not reading.faults for reading in readings) / len(readings))
        log_metric("tool_calls", sum(reading.calls for reading in readings) / len(readings))
        if observations:
            refused = observations - sum(reading.observed for reading in readings)
            log_metric("calls_refused", refused / observations)

    def shown(self) -> list[rollouts.Rollout]:
        """The last batch's first rollouts."""
        batch = self._batch
        found = []
        for place, row in enumerate(batch.get("id", ())[:SHOWN]):
            terms = {name.removesuffix("_reward"): scores[place] for name, scores in self._terms.items()}
            reward = sum(self._weights[name] * scores[place] for name, scores in self._terms.items())
            true = self._truth[row]
            # A defect whose place was never published has no boxes, which a verdict must not lack.
            verdict = Verdict.model_construct(**{**true, "boxes": [tuple(box) for box in true["boxes"]]})
            found.append(
                rollouts.rollout(
                    row,
                    batch["prompts"][place],
                    batch["completions"][place],
                    render_verdict(verdict),
                    {"reward": reward, **terms},
                )
            )
        return found


def _sampler(judge: Judge, folder: Path, every: int, show: Callable[[Path], None] | None) -> Any:
    from transformers import TrainerCallback

    class Sampler(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            due = state.global_step % every == 0 or state.global_step in (1, state.max_steps)
            if state.is_world_process_zero and due:
                rollouts.save(folder, state.global_step, judge.shown())
                if show:
                    show(folder)

    return Sampler()


FIGURES = {
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
"""Names for people, and TRL's."""


def _finish(trainer: Any, params: Params, workspace: Workspace, start: str, output: Output) -> None:
    """Write weights, adapters merged into those of ``start``, figures, curve and card; every process takes part."""
    adapters, rank = output.path / "adapters", params.train.lora_rank
    trainer.save_model(str(adapters if rank else output.path))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if rank:
        merge(start, adapters, output.path, "float32")
    trainer.processing_class.save_pretrained(output.path)
    # How this machine was set up is nobody's business where the weights go.
    (output.path / "training_args.bin").unlink(missing_ok=True)
    output.counts |= {"prompts": len(trainer.train_dataset), "steps": trainer.state.global_step}
    figures = _figures(trainer.state.log_history)
    write_curves(trainer.state.log_history, workspace.reports, "grpo", PLOTTED, TERM_COLUMNS)
    write_metrics(figures, workspace.reports / "grpo.json")
    card.write(output.path, "grpo", params, workspace, figures)
    # Last: what fails before does not lose the training.
    for name in (CHECKPOINTS, "adapters"):
        shutil.rmtree(output.path / name, ignore_errors=True)


def _figures(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the first and the last quarter of a run, at least one step each."""
    logs = [entry for entry in history if "loss" in entry]
    part = max(1, len(logs) // 4)

    def mean(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
        values = [entry[key] for entry in entries if entry.get(key) is not None]
        return sum(values) / len(values) if values else None

    return {
        "steps": logs[-1]["step"] if logs else 0,
        "first": {name: mean(logs[:part], key) for name, key in FIGURES.items()},
        "last": {name: mean(logs[-part:], key) for name, key in FIGURES.items()},
    }


@contextmanager
def _output(params: Params, workspace: Workspace, source: str) -> Iterator[Output]:
    """The stage's output, of which the first process takes care and the others know the place."""
    state, target, strict = processes.state(), workspace.grpo.absolute(), params.run.strict
    if not state.is_main_process:
        state.wait_for_everyone()
        yield Output(staging_path(target), strict)
        state.wait_for_everyone()
        return
    shared = params.train.model_dump(include={"lora_rank", "dtype", "gradient_checkpointing", "freeze_vision"})
    # Whatever changes the rollouts: a killed run goes on with equal ones only.
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
        **identity(source),
        **card.libraries(),
    }
    with stage_output(target, stage="grpo", params=settings, inputs=inputs, strict=strict, resumable=True) as output:
        state.wait_for_everyone()
        yield output
        state.wait_for_everyone()
