"""Verbs that check results and environment: `verify`, `cache`, `doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import load
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    pass


def verify(
    corpus: Annotated[Path, typer.Argument(help="Folder of the corpus.")] = Path("data/indus_cot"),
) -> None:
    """Re-run every tool call of a corpus and compare the results; name the first difference and exit with 1."""
    from cot_builder.stages.verify import verify as verify_corpus

    rows, calls = verify_corpus(corpus)
    typer.echo(f"{corpus}: {rows} trajectories, {calls} tool calls replayed, all equal")


def cache(
    context: typer.Context,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete cached answers, selected with --older-than, --model or both.")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(help="With --prune: delete answers older than this many days.", min=0)
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --prune: delete answers of this model.")] = None,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Move the readable answers of a damaged cache into a new one.")
    ] = False,
) -> None:
    """Show the cached answers of the endpoint: their number and size, and the cost by model."""
    from rich.table import Table

    from cot_builder.endpoint import store
    from cot_builder.progress import console

    _, workspace = load(context)
    path = store.answer_store_path(workspace.root)
    if not prune and (older_than is not None or model is not None):
        raise IndusCotError("cache: --older-than and --model select the answers that --prune deletes; add --prune")
    if salvage:
        if path.is_file() and store.is_intact(path):
            typer.echo(f"{path}: the cache is not damaged; nothing to salvage")
            return
        kept, damaged = store.salvage(path)
        typer.echo(f"{kept} answers moved to {path}; the damaged file was renamed to {damaged}")
        return
    if not path.exists():
        typer.echo(f"{path}: no answers yet; no endpoint was queried")
        return
    answers = store.AnswerStore(path)
    try:
        if prune:
            if older_than is None and model is None:
                raise IndusCotError("cache --prune: select answers with --older-than DAYS, --model NAME or both")
            typer.echo(f"{answers.prune(older_than, model)} answers deleted; the record of their cost stays")
            return
        table = Table(
            "model", "answers paid for", "input tokens", "output tokens", "USD", box=None, header_style="bold"
        )
        for row in answers.spend_by_model():
            table.add_row(row.model, str(row.answers), str(row.input), str(row.output), f"{row.usd:.4f}")
        console.print(table)
        steps = ", ".join(f"{count} {step}" for _, step, count in answers.counts())
        usd, tokens = answers.spent()
        typer.echo(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, kept: {steps or 'none'}; spent {usd:.4f} USD, {tokens} tokens"
        )
    finally:
        answers.close()


def doctor(context: typer.Context) -> None:
    """Check the environment, the parameters and the data; print advice for each fault."""
    from indus_cot.doctor import run_checks

    if not run_checks(*context.obj):
        raise typer.Exit(1)
