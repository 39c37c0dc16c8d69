"""Stage `sft`: supervised fine-tuning on Indus-CoT, the cold start before reinforcement learning (arXiv 2605.20682)."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cot_builder.corpus.validated import hash_shards
from cot_builder.params import Params
from cot_builder.storage.output import Output, stage_output, staging_path
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from train import card, corpus, guard, processes, record, tiny
from train.collator import count_tokens, make_collator
from train.model import identify_model, load_policy, load_processor, locate_model, make_lora_config, merge_adapters
from train.plan import Plan, count_updates, plan_training, world_size

FINAL_LOGS = 5
"""Number of last logs whose mean is the final loss."""


def sft(params: Params, workspace: Workspace) -> None:
    """Write ``models/sft`` (weights in safetensors, processor, manifest), and curves and figures in ``reports``.

    A killed run resumes from its last complete checkpoint, with the same losses, when it is started again with the same
    parameters, corpus and libraries. Trajectories longer than ``train.max_tokens`` are left out and listed in
    ``left_out.csv``.

    Raises:
        IndusCotError: the corpus or the model is invalid, or the model is the one to be written; several GPUs are
            visible but no launcher started the processes; the loss is not a number; there is not enough memory.
    """
    processes.check_launch("sft")
    with guard.explain_out_of_memory("sft"), _open_output(params, workspace) as output:
        base = base_model(params, workspace, output.path / "base")
        data = _prepare(params, workspace, base)
        for name, length in chain.from_iterable(data.refused.values()):
            output.leave_out("longer than train.max_tokens", name, f"{length} tokens")
        output.counts |= _train(params, workspace, data, base, output.path)


def make_plan(params: Params, workspace: Workspace) -> Plan:
    """Estimate what a run takes, without training or writing anything.

    Raises:
        IndusCotError: the corpus or the model is invalid.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = base_model(params, workspace, Path(folder) / "base")
        data = _prepare(params, workspace, base)
        found = [*data.lengths, *(length for _, length in data.refused["train"])]
        return plan_training(
            params.train,
            base,
            found,
            batch=params.sft.batch,
            accumulation=params.sft.accumulation,
            epochs=params.sft.epochs,
            steps=params.sft.steps,
        )


def base_model(params: Params, workspace: Workspace, folder: Path) -> str:
    """Return the folder or name of the base model; for ``tiny``, build it in ``folder`` from the texts of the corpus.

    Raises:
        IndusCotError: the corpus is invalid; the model is the one that ``sft`` writes.
    """
    if params.train.model != card.TINY:
        return locate_model(params.train.model, workspace.root, workspace.sft, "train.model")
    with processes.get_state().main_process_first():
        if not folder.is_dir():
            rows = _read(params, workspace)["train"]
            partial = folder.with_name(f".{folder.name}.partial")
            tiny.build(partial, corpus.iter_texts(rows), params.run.seed, tiny.list_systems())
            partial.rename(folder)
    return str(folder)


class _Data(NamedTuple):
    """Training rows that are short enough with their token counts, too long rows by split, validation rows or None."""

    processor: Any
    rows: Any
    lengths: list[int]
    refused: dict[str, list[tuple[str, int]]]
    """Id and number of tokens of each row that is too long, by split."""
    validation: Any


def _read(params: Params, workspace: Workspace) -> dict[str, Any]:
    measured = [name for name, source in params.pull.items() if source.role == "evaluate"]
    return corpus.read(workspace.indus_cot, params.train.target, measured)


def _prepare(params: Params, workspace: Workspace, base: str) -> _Data:
    processor = load_processor(base)
    splits = _read(params, workspace)
    fitting, found, refused = {}, {}, {}
    for name, rows in splits.items():
        found[name] = count_tokens(rows, processor)
        places = [place for place, length in enumerate(found[name]) if length <= params.train.max_tokens]
        kept = set(places)
        refused[name] = [
            (row_id, found[name][place])
            for place, row_id in enumerate(rows.with_format(None)["id"])
            if place not in kept
        ]
        fitting[name] = rows.select(places)
        found[name] = [found[name][place] for place in places]
    if not found["train"]:
        raise IndusCotError(
            f"every trajectory is longer than train.max_tokens, {params.train.max_tokens}; the shortest has "
            f"{min(length for _, length in refused['train'])} tokens; raise train.max_tokens"
        )
    return _Data(processor, fitting["train"], found["train"], refused, fitting.get("validation"))


@contextmanager
def _open_output(params: Params, workspace: Workspace) -> Iterator[Output]:
    """Open the output of ``models/sft``: the main process creates and commits it, the others only get its path."""
    state, target = processes.get_state(), workspace.sft.absolute()
    staged = (
        stage_output(
            target,
            stage="sft",
            params={
                "train": params.train.model_dump(),
                "sft": params.sft.model_dump(),
                "seed": params.run.seed,
                "processes": world_size(),
            },
            inputs=_hash_inputs(params, workspace),
            strict=params.run.strict,
            resumable=True,
        )
        if state.is_main_process
        else nullcontext(Output(staging_path(target), params.run.strict))
    )
    with staged as output:
        state.wait_for_everyone()
        yield output
        state.wait_for_everyone()


def _hash_inputs(params: Params, workspace: Workspace) -> dict[str, str]:
    """Return the identity of corpus, base model and libraries; a run resumes only if they are equal."""
    shards = hash_shards(workspace.indus_cot)
    began = {"model": card.TINY}
    if params.train.model != card.TINY:
        began = identify_model(locate_model(params.train.model, workspace.root, workspace.sft, "train.model"))
    return {**shards, **began, **card.library_versions()}


def _train(params: Params, workspace: Workspace, data: _Data, base: str, folder: Path) -> dict[str, Any]:
    """Train, write the finished model to ``folder``, and return the figures of the training."""
    import torch
    from trl import SFTConfig, SFTTrainer

    train, settings = params.train, params.sft
    checkpoints = folder / "checkpoints"
    at_once = world_size() * settings.batch
    steps = settings.steps or count_updates(len(data.rows), at_once, settings.accumulation, settings.epochs)
    # Make the configuration before loading: under ZeRO-3 it makes `from_pretrained` shard the weights.
    config = SFTConfig(
        output_dir=str(checkpoints),
        trust_remote_code=False,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        use_cpu=not torch.cuda.is_available(),
        bf16=train.dtype == "bfloat16",
        gradient_checkpointing=train.gradient_checkpointing,
        logging_steps=min(settings.log_steps, steps),
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        save_total_limit=guard.CHECKPOINTS_KEPT,
        seed=params.run.seed,
        remove_unused_columns=False,
        max_length=None,
        disable_tqdm=True,
        # Every batch has images, so every weight is used; the search for unused ones would walk the graph each step.
        ddp_find_unused_parameters=False,
        report_to=[],
    )
    trainer = guard.add_nan_check(_balance_processes(SFTTrainer, data.lengths))(
        load_policy(base, train),
        args=config,
        train_dataset=data.rows,
        processing_class=data.processor,
        data_collator=make_collator(data.processor),
        peft_config=make_lora_config(train.lora_rank) if train.lora_rank else None,
        callbacks=[record.make_recorder("sft", workspace.reports), guard.make_checkpoint_marker()],
    )
    record.silence_logs(trainer)
    started, last = time.perf_counter(), guard.find_last_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.perf_counter() - started
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    ending = logs[-FINAL_LOGS:]
    figures = {
        "trajectories": len(data.rows),
        "refused": sum(map(len, data.refused.values())),
        "steps": trainer.state.global_step,
        "loss_first": logs[0]["loss"],
        "loss": sum(entry["loss"] for entry in ending) / len(ending),
        "token_accuracy": sum(entry["mean_token_accuracy"] for entry in ending) / len(ending),
    }
    if data.validation:
        measured = trainer.evaluate(data.validation)
        figures["validation_loss"] = measured["eval_loss"]
        figures["validation_token_accuracy"] = measured["eval_mean_token_accuracy"]
    _finish(trainer, params, base, folder)
    if trainer.is_world_process_zero():
        rate = [entry["tokens_per_s"] for entry in logs if "tokens_per_s" in entry]
        speed = {"tokens_per_s": sorted(rate)[len(rate) // 2], "seconds": seconds}
        record.write_metrics({**figures, **speed}, workspace.reports / "sft.json")
        card.write(folder, "sft", params, workspace, figures)
        # Delete the checkpoints last, so that an error above does not lose the training.
        for name in ("checkpoints", "adapters", "base"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in figures.items()}


def _balance_processes(trainer: type, tokens: list[int]) -> type:
    """Return a trainer class that distributes the trajectories of an update evenly by length over the processes.

    At every update, all processes wait for the slowest. The trajectories of each update are still drawn at random.
    """
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    class BalancesProcesses(trainer):
        def _get_train_sampler(self, *arguments: Any) -> Any:
            given = self.args
            if given.world_size == 1:
                return super()._get_train_sampler(*arguments)
            return BatchRebalanceSampler(
                tokens,
                given.world_size * given.train_batch_size * given.gradient_accumulation_steps,
                dp_size=given.world_size,
                grad_accum=given.gradient_accumulation_steps,
                seed=given.seed,
                rank=given.process_index,
                drop_last=False,
            )

    return BalancesProcesses


def _finish(trainer: Any, params: Params, base: str, folder: Path) -> None:
    """Write the weights, with adapters merged, and the processor to ``folder``."""
    adapters = folder / "adapters"
    trainer.save_model(str(adapters if params.train.lora_rank else folder))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if params.train.lora_rank:
        merge_adapters(base, adapters, folder, params.train.dtype)
    trainer.processing_class.save_pretrained(folder)
    # Don't publish the setup of this machine with the weights.
    (folder / "training_args.bin").unlink(missing_ok=True)
