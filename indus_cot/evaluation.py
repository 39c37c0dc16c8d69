"""Verbs that evaluate and report: `evaluate`, `rescore`, `compare`, `report`, `show`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import AllowUnpriced, load, print_done

if TYPE_CHECKING:
    from schemas.metrics import Metrics


def evaluate(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A set of the `pull` section with role evaluate; all by default.", metavar="SET")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(help="Number of images, half of each label; overrides evaluate.limit.", min=1)
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; choose another one for another run, such as `results-no-tools`."),
    ] = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Query the model again instead of using cached answers: for a model that changed under its name.",
        ),
    ] = False,
    allow_unpriced: AllowUnpriced = False,
) -> None:
    """Let a policy inspect the test images of benchmarks; writes results/SET. A killed run resumes when started again.

    To compare two runs: `indus-cot --set evaluate.mode=agent-no-tools evaluate --results results-no-tools`, then
    `indus-cot compare results results-no-tools`.
    """
    # Set before torch is imported, which reads it once; see `training.py`.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from eval.evaluate import evaluate as stage
    from eval.evaluate import evaluated_sets
    from eval.macro import write_headline, write_overview

    params, workspace = load(context)
    if limit is not None:
        params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"limit": limit})})
    folder = results or workspace.results
    names = [name] if name else evaluated_sets(params)
    for item in names:
        found = stage(item, params, workspace, results, refresh=refresh, allow_unpriced=allow_unpriced)
        print_done(folder / item)
        _print_figures(item, found)
    if not names:
        typer.echo("evaluate: nothing was evaluated, because no set of `pull` in params.yaml has the role evaluate")
    write_overview(folder)
    if folder == workspace.results:
        write_headline(folder, workspace.reports / "evaluate.json")


def _print_figures(name: str, found: "Metrics") -> None:
    from eval.metrics import format_headline

    listed = found.listing
    typer.echo(
        f"{name}, {found.run.policy} {found.run.mode}: {format_headline(found.overall)}, on {listed.evaluated} of "
        f"{listed.published or listed.available} {'published' if listed.published else 'test'} images"
        f"{' (rendered ones)' if listed.same_list is False and not listed.published else ''}"
    )
    for flag in found.flags:
        typer.secho(f"  {flag}", fg="yellow")


SHOWN_CHANGES = 30


def rescore(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of results, of one set or of several, such as `results` or `results/mpdd`."),
    ] = None,
    counts: Annotated[
        str,
        typer.Option(
            help="Compute the figures from published counts instead: `tp=45,fn=9,tn=270,fp=16`.", metavar="COUNTS"
        ),
    ] = "",
) -> None:
    """Recompute every figure from predictions.parquet alone, write metrics.json, and print the changes."""
    from rich.table import Table

    from cot_builder.progress import console
    from cot_builder.storage.results import PREDICTIONS_FILE
    from eval.macro import write_overview
    from eval.metrics import format_headline, format_share
    from eval.rescore import figures_of_counts
    from eval.rescore import rescore as rescore_folders

    if counts:
        typer.echo("\n".join(f"{name}: {100 * value:.2f}" for name, value in figures_of_counts(counts).items()))
    if not counts and not results:
        results = [Path("results")]
    for item in rescore_folders(results or []):
        scores = item.found.overall
        changed = f"{len(item.changes)} figures changed" if item.changes else "nothing changed"
        typer.echo(
            f"{item.folder}: {format_headline(scores)}, {scores.images} images of {scores.parts} parts, "
            f"{scores.unparsed} unparsed; {changed}"
        )
        for flag in item.found.flags:
            typer.secho(f"  {flag}", fg="yellow")
        if item.changes:
            table = Table("figure", "before", "after", box=None, header_style="bold")
            for path, before, after in item.changes[:SHOWN_CHANGES]:
                table.add_row(
                    path, *(f"{value:.6g}" if isinstance(value, float) else str(value) for value in (before, after))
                )
            console.print(table)
            if (more := len(item.changes) - SHOWN_CHANGES) > 0:
                typer.echo(f"  … and {more} more")
    for root in results or []:
        if (root / PREDICTIONS_FILE).is_file():
            continue
        for run in write_overview(root).runs:
            missing = f", without {', '.join(run.missing)}" if run.missing else ""
            mean = format_share(run.balanced_accuracy)
            typer.echo(f"{run.run}: balanced accuracy {mean}, mean over {', '.join(run.sets)}{missing}")


def compare(
    first: Annotated[Path, typer.Argument(help="Results of one run.")],
    second: Annotated[Path, typer.Argument(help="Results of the other.")],
    file: Annotated[
        Path | None, typer.Option("--json", help="Also write the comparison to this file.", metavar="FILE")
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of resamples and permutations.", min=0)] = 7,
) -> None:
    """Compare two runs on the images that both answered: differences (second minus first), intervals and p-values."""
    import json

    from rich.table import Table

    from cot_builder.progress import console
    from cot_builder.storage.output import write_text
    from eval.compare import compare as compare_runs
    from eval.compare import list_names, to_json

    found = compare_runs(first, second, draws=draws, seed=seed)
    table = Table(
        "set", "images", "parts", "first", "second", "difference", "95 % interval", "only first right",
        "only second right", "McNemar p", "permutation p", box=None, header_style="bold",
    )  # fmt: skip
    for item in [*found.sets, *([found.macro] if found.macro else [])]:
        bounds = "–" if item.low is None or item.high is None else f"{100 * item.low:+.1f} to {100 * item.high:+.1f}"
        accuracies = (f"{100 * item.first:.1f}", f"{100 * item.second:.1f}", f"{100 * item.difference:+.1f}")
        lonely = (str(item.only_first_right), str(item.only_second_right))
        tests = (f"{item.mcnemar_p:.4f}", f"{item.permutation_p:.4f}")
        table.add_row(item.set, str(item.images), str(item.parts), *accuracies, bounds, *lonely, *tests)
    console.print(table)
    for name, (one, other) in found.modes.items():
        typer.echo(f"{name}: first is {one}; second is {other}")
    for path, names in ((first, found.only_first), (second, found.only_second)):
        if names:
            typer.echo(f"only {path} has {len(names)}, which are left out: {list_names(names)}")
    if file:
        write_text(file, json.dumps(to_json(found), indent=1) + "\n")


def report(context: typer.Context) -> None:
    """Write one HTML page about the corpus: counts, gates, leakage and a gallery of trajectories."""
    from eval.report.report import report as stage

    params, workspace = load(context)
    stage(params, workspace)
    typer.echo(f"open {workspace.reports / 'index.html'}", err=True)


def show(
    sample: Annotated[
        str, typer.Argument(help="Id of a row or of a sample, or part of an id; a random row by default.")
    ] = "",
    corpus: Annotated[Path, typer.Option(help="Folder of the corpus.")] = Path("data/indus_cot"),
    browser: Annotated[bool, typer.Option("--open", help="Open it as an HTML page with its images.")] = False,
) -> None:
    """Print one trajectory step by step, or open it as an HTML page."""
    from eval.report.show import show as display

    display(corpus, sample, browser)
