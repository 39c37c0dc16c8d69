"""Verbs that train models: `sft` and `grpo`."""

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import load, print_done

if TYPE_CHECKING:
    from collections.abc import Callable

    from cot_builder.params import Params
    from cot_builder.storage.workspace import Workspace
    from train.plan import Plan


PrintPlan = Annotated[
    bool, typer.Option("--print-plan", help="Only print the plan: devices, batch size, tokens, memory and steps.")
]


def sft(context: typer.Context, print_plan: PrintPlan = False) -> None:
    """Fine-tune a model on Indus-CoT; writes models/sft. A killed run resumes when started again."""
    from train import sft as stage

    _train(context, "sft", stage.make_plan if print_plan else stage.sft)


def grpo(context: typer.Context, print_plan: PrintPlan = False) -> None:
    """Train the model by reinforcement learning with the real tools; writes models/grpo and reports/grpo/rollouts.html.

    A killed run resumes when started again.
    """
    from eval.report.rollouts import write_rollouts
    from train import grpo as stage

    _train(context, "grpo", stage.make_plan if print_plan else partial(stage.grpo, show=write_rollouts))


def _train(context: typer.Context, name: str, run: "Callable[[Params, Workspace], Plan | None]") -> None:
    # Set before torch is imported, which reads it once. Threads that spin while they wait slow a training down many
    # times if anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from train import processes

    params, workspace = load(context)
    plan, state = run(params, workspace), processes.get_state()
    # Only the main process prints, after its output is written. All processes wait for each other: a gloo thread that
    # still runs when the interpreter exits would abort it.
    if state.is_main_process:
        if plan:
            typer.echo(str(plan))
        else:
            print_done(workspace.models / name)
    state.wait_for_everyone()
    state.destroy_process_group()
