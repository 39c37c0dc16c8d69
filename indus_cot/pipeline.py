"""Verbs of the pipeline: one for each stage of dvc.yaml, and `repro`, which runs them all."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import PROFILE_VARIABLE, SETTINGS_VARIABLE, AllowUnpriced, load, print_done
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    from cot_builder.endpoint.run import Estimate
    from cot_builder.params import Params
    from cot_builder.storage.workspace import Workspace


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; created if missing.")],
) -> None:
    """Create a project: params.yaml, dvc.yaml, profiles, .gitignore and a short README.

    Afterwards run `cd FOLDER` and `indus-cot repro`.
    """
    from indus_cot.init import create_project

    written = create_project(folder)
    typer.echo(f"init: {len(written)} files written to {folder}: {', '.join(written)}")
    typer.echo(f"next: cd {folder}; indus-cot repro", err=True)


def pull(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A set of the `pull` section of params.yaml.")]
) -> None:
    """Read a benchmark from a folder, an archive, a URL or the Hub into shards of the original files."""
    from cot_builder.stages.pull import pull as stage

    params, workspace = load(context)
    stage(name, params, workspace)
    print_done(workspace.pull(name))


def select(context: typer.Context) -> None:
    """Select the training samples: category-disjoint, balanced, with visible defects, without near-duplicates."""
    from cot_builder.stages.select import select as stage

    params, workspace = load(context)
    stage(params, workspace)
    print_done(workspace.select)


def patch(context: typer.Context) -> None:
    """Create global/local patch pairs, each with its box on the original image."""
    from cot_builder.stages.patch import patch as stage

    params, workspace = load(context)
    stage(params, workspace)
    print_done(workspace.patch)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the number of requests and their estimated cost; send nothing.")
]


Refresh = Annotated[bool, typer.Option("--refresh", help="Query the endpoint again and replace cached answers.")]


def _reject_endpoint_options(params: "Params", verb: str, **flags: bool) -> None:
    """Raise if options for a model server are given but the teacher uses none."""
    from cot_builder.teacher.backends import load_backend

    given = " ".join(f"--{name.replace('_', '-')}" for name, on in flags.items() if on)
    backend = params.teacher.backend
    if given and not load_backend(backend).ASKS:
        raise IndusCotError(
            f"{verb} {given}: teacher.backend is {backend}, which queries no server; leave the option out"
        )


def prior(
    context: typer.Context, dry_run: DryRun = False, refresh: Refresh = False, allow_unpriced: AllowUnpriced = False
) -> None:
    """Describe a defect-free part of each category and view from normal training images."""
    from cot_builder.stages.prior import estimate_prior
    from cot_builder.stages.prior import prior as stage

    params, workspace = load(context)
    _reject_endpoint_options(params, "prior", dry_run=dry_run, refresh=refresh)
    if dry_run:
        estimate = estimate_prior(params, workspace, refresh=refresh, allow_unpriced=allow_unpriced)
        _print_estimate(estimate, params, "priors")
        return
    stage(params, workspace, refresh=refresh, allow_unpriced=allow_unpriced)
    print_done(workspace.prior)


def draft(
    context: typer.Context,
    dry_run: DryRun = False,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Retry only the samples in reports/failures.csv.")
    ] = False,
    refresh: Refresh = False,
    allow_unpriced: AllowUnpriced = False,
) -> None:
    """Draft trajectories with the teacher and real tool calls, and check them with the gates.

    With `teacher.backend: endpoint` a model behind an OpenAI-compatible server writes them. Its answers are cached
    in `.indus-cot/answers.sqlite`: you can stop and restart at any time, and no answer is paid for twice. Start with
    `--dry-run`, and set `budget.usd`.
    """
    from cot_builder.stages.draft import draft as stage
    from cot_builder.stages.draft import estimate_draft

    params, workspace = load(context)
    _reject_endpoint_options(params, "draft", dry_run=dry_run, only_failed=only_failed, refresh=refresh)
    if dry_run:
        estimate = estimate_draft(
            params, workspace, refresh=refresh, only_failed=only_failed, allow_unpriced=allow_unpriced
        )
        _print_estimate(estimate, params, "samples")
        return
    stage(params, workspace, refresh=refresh, only_failed=only_failed, allow_unpriced=allow_unpriced)
    print_done(workspace.draft)
    _print_failed(params, workspace)


def _print_failed(params: "Params", workspace: "Workspace") -> None:
    from cot_builder.progress import console
    from cot_builder.storage.output import read_manifest
    from cot_builder.teacher.backends import load_backend

    counts = read_manifest(workspace.draft)["counts"]
    if without := counts["samples"] - counts["trajectories"]:
        asks = load_backend(params.teacher.backend).ASKS
        advice = "; `indus-cot draft --only-failed` retries them" if asks else ""
        console.print(
            f"{without} of {counts['samples']} samples have no trajectory; see reports/failures.csv{advice}",
            style="yellow",
            highlight=False,
        )


def _print_estimate(found: "Estimate", params: "Params", unit: str) -> None:
    from rich.table import Table

    from cot_builder.progress import console

    table = Table("step", "cached", "to send", "input tokens", "output tokens", "USD", box=None, header_style="bold")
    for step in dict.fromkeys([*found.cached, *found.requests]):
        output = f"{found.output[step]}{'' if step in found.measured or not found.requests[step] else ' (assumed)'}"
        cost = "unknown" if step in found.unpriced else f"{found.usd[step]:.4f}"
        cells = (found.cached[step], found.requests[step], found.input[step], output, cost)
        table.add_row(step, *(str(cell) for cell in cells))
    console.print(table)
    kept, asked = sum(found.cached.values()), sum(found.requests.values())
    cost = "unknown" if found.unpriced else f"{sum(found.usd.values()):.2f}"
    share = 100 * kept / (kept + asked) if kept + asked else 0.0
    tokens = sum(found.input.values()) + sum(found.output.values())
    typer.echo(
        f"{found.samples} {unit}, {kept + asked} requests, {share:.0f} % of them cached; to send: {asked} "
        f"requests, about {tokens} tokens, {cost} USD at the prices of prices.yaml. Corrections are extra, at "
        f"most {params.teacher.corrections} per form. Spent so far in all runs: {found.spent_usd:.2f} USD; "
        f"cap: {params.budget.usd if params.budget.usd is not None else 'none'} USD, "
        f"{params.budget.tokens if params.budget.tokens is not None else 'none'} tokens (budget). Nothing was sent."
    )
    if found.failed and not asked:
        typer.echo(
            f"{found.failed} samples of the last run have no trajectory; only --only-failed retries them, because "
            "their cached answers failed"
        )


def assemble(context: typer.Context) -> None:
    """Apply reviews, validate every row and write the Indus-CoT corpus for `datasets.load_dataset`."""
    from cot_builder.stages.assemble import assemble as stage

    params, workspace = load(context)
    stage(params, workspace)
    print_done(workspace.indus_cot)


def repro(
    context: typer.Context,
    targets: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; all by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the stages even if nothing changed.")] = False,
) -> None:
    """Run every stage that is out of date: `dvc repro` with this profile and these settings."""
    from cot_builder.storage.workspace import Workspace
    from indus_cot.git import allow_missing_git

    workspace = Workspace()
    allow_missing_git(workspace.root)
    # With targets, DVC's order of stages varies between runs: a frozen stage may come before `params`.
    if not all(path.is_file() for path in (workspace.params, workspace.reviews, workspace.prior_reviews)):
        _write_params(context)
    profile, settings = context.obj
    environment = os.environ | {
        PROFILE_VARIABLE: profile,
        SETTINGS_VARIABLE: "\n".join(settings),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # -P: do not import from the current folder, which may hold a folder named `train`.
    command = [sys.executable, "-P", "-m", "dvc", "repro", *(["--force"] if force else []), *(targets or [])]
    os.execve(sys.executable, command, environment)


def params(context: typer.Context) -> None:
    """Write the resolved parameters and the code key of each stage to data/params.json, on which DVC stages depend."""
    _write_params(context)


def _write_params(context: typer.Context) -> None:
    from cot_builder.stages.params import write_params
    from indus_cot.stages import code_keys

    write_params(*load(context), code_keys())
