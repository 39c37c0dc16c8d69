"""Verbs of `indus-cot review`: serve Label Studio, push drafts, pull reviews, and show their progress."""

from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import load

if TYPE_CHECKING:
    pass


review = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Expert review in Label Studio: serve it, push drafts, pull reviews, show progress and agreement.",
)


@review.command()
def serve(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(help="Port; that of review.url by default.", min=1, max=65535)] = None,
    database: Annotated[
        str,
        typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/NAME; SQLite by default.", envvar="INDUS_COT_DATABASE"),
    ] = "",
) -> None:
    """Run Label Studio on this machine until Ctrl-C, in its own environment below .label-studio.

    The first start installs it and creates an account. Every start prints where to log in.
    """
    from urllib.parse import urlsplit

    from annotation.server import serve as start

    params, workspace = load(context)
    start(workspace.label_studio, port or urlsplit(params.review.url).port or 8080, database=database or None)


PriorsOnly = Annotated[
    bool, typer.Option("--priors", help="Only the normalcy priors, which can be reviewed before anything is drafted.")
]


@review.command()
def push(context: typer.Context, priors: PriorsOnly = False) -> None:
    """Push priors and drafts to Label Studio, one task each, the most doubtful first. Later pushes send changes."""
    from annotation.priors import push as push_priors
    from annotation.push import push as push_drafts

    params, workspace = load(context)
    pushed = push_priors(params, workspace)
    typer.echo(
        f"review push of priors: {pushed.created} new, {pushed.updated} updated, {pushed.repaired} repaired, "
        f"{pushed.unchanged} unchanged, {pushed.withdrawn} withdrawn; {pushed.set_aside} reviews of changed "
        "texts set aside"
    )
    typer.echo(f"review priors at {params.review.url}/projects/{pushed.project}/data", err=True)
    if priors:
        return
    drafts = push_drafts(params, workspace)
    typer.echo(
        f"review push: {drafts.created} tasks new, {drafts.updated} updated, {drafts.repaired} repaired, "
        f"{drafts.unchanged} unchanged, {drafts.withdrawn} withdrawn; {drafts.set_aside} reviews of "
        "changed drafts set aside"
        + (f"; {drafts.elsewhere} already decided by another expert" if drafts.elsewhere else "")
        + (f"; {drafts.to_settle} to be settled by adjudication" if drafts.to_settle else "")
    )
    for title, number in drafts.projects.items():
        typer.echo(f"{title}: {params.review.url}/projects/{number}/data", err=True)


@review.command("pull")
def pull_reviews(context: typer.Context, priors: PriorsOnly = False) -> None:
    """Pull new reviews into the tables in data/review and data/prior_review.

    Afterwards run `indus-cot repro`.
    """
    from annotation.priors import pull as pull_priors
    from annotation.pull import pull as pull_drafts

    params, workspace = load(context)
    pulled = pull_priors(params, workspace)
    typer.echo(
        f"review pull of priors: {pulled.new} new, {pulled.total} in all → {workspace.prior_reviews}; "
        f"{pulled.returned} returned to the reviewer with the reason, {pulled.skipped} skipped"
    )
    if priors:
        return
    drafts = pull_drafts(params, workspace)
    typer.echo(
        f"review pull: {drafts.new} new or changed, {drafts.total} in all → {workspace.reviews}; "
        f"{drafts.returned} sent back to the reviewer with the reason, {drafts.skipped} skipped"
    )
    for title in drafts.unread:
        typer.echo(
            f"review pull: not read: the project {title!r} has new annotations, but review.annotators does not name "
            "its annotator. To pull its reviews, name the annotator there (or leave review.annotators empty, if the "
            "project dates from a time without annotators) and pull once",
            err=True,
        )


@review.command("status")
def review_status(context: typer.Context) -> None:
    """Show progress and results of the review, from the reviews pulled so far."""
    from datetime import UTC, datetime

    from rich.table import Table

    from annotation.status import compute_status
    from cot_builder.progress import console

    params, workspace = load(context)
    status = compute_status(params, workspace, datetime.now(UTC))
    people = ", ".join(f"{name} {count}" for name, count in status.reviewers.items())
    typer.echo(
        f"{status.decided} of {status.drafts} drafts decided, {status.sent_back} sent back, {status.stale} reviews of "
        f"drafts that have changed since; {status.disagreements} disagreements to settle"
        + (f"; by {people}" if people else "")
    )
    typer.echo(
        f"{status.pages_done} of {status.pages} pages done; {status.seconds:.0f} s per page (median), "
        f"{status.hours_left:.1f} hours left; {status.pages_per_day:.1f} pages per day in the last week"
        + (f", finished {status.finished:%Y-%m-%d}" if status.finished and status.pages > status.pages_done else "")
    )
    if status.shares:
        table = Table(
            "drafts",
            "reviewed",
            "accepted",
            "fixed",
            "accepted or fixed",
            "95 % interval",
            box=None,
            header_style="bold",
        )
        for share in status.shares:
            low, high = share.interval
            rate = f"{100 * (share.accepted + share.fixed) / share.reviewed:.0f} %"
            counts = (share.reviewed, share.accepted, share.fixed)
            table.add_row(share.name, *map(str, counts), rate, f"{100 * low:.0f} to {100 * high:.0f} %")
        console.print(table)
    if status.problems:
        typer.echo(f"sent back for: {', '.join(f'{name} {count}' for name, count in status.problems.items())}")
    if status.usd_per_accepted is not None:
        typer.echo(
            f"cost per accepted or fixed draft: {status.usd_per_accepted:.4f} USD for drafting and "
            f"{status.seconds_per_accepted:.0f} s of review"
        )


@review.command()
def agree(context: typer.Context) -> None:
    """Show agreement between experts, their progress and their attention; writes reports/agreement.json."""
    from rich.table import Table

    from annotation.agreement import AGREEMENT_FILE, IntervalEstimate, measure_agreement
    from cot_builder.progress import console

    def format_estimate(figure: IntervalEstimate) -> str:
        if figure.value is None:
            return "all the same" if figure.units else ""
        interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
        return f"{figure.value:.2f}{interval}, n={figure.units}"

    params, workspace = load(context)
    report = measure_agreement(params, workspace)
    typer.echo(
        f"{report.shared} drafts reviewed by two or more, {report.disagreements} disagreements to settle, "
        f"{report.settled} settled"
    )
    if report.groups:
        table = Table("", "verdict, κ or α", "type", "box IoU", "mask Dice", box=None, header_style="bold")
        for group in report.groups:
            figures = (group.verdict, group.type, group.box_iou, group.mask_dice)
            table.add_row(group.who, *map(format_estimate, figures))
        console.print(table)
    table = Table(
        "expert", "done", "accepted", "fixed", "rejected", "hours", "s per page", "planted mistakes caught",
        "earlier half", "later half", "p", box=None, header_style="bold",
    )  # fmt: skip
    for expert in report.experts:
        done = f"{expert.reviews}{f' of {expert.assigned}' if expert.assigned else ''}"
        verdicts = (str(expert.verdicts.get(name, 0)) for name in ("accepted", "fixed", "rejected"))
        caught = map(format_estimate, (expert.caught, expert.caught_first, expert.caught_last))
        drift = "" if expert.drift is None else f"{expert.drift:.2f}"
        table.add_row(expert.who, done, *verdicts, f"{expert.hours:.1f}", f"{expert.seconds:.0f}", *caught, drift)
    console.print(table)
    typer.echo(f"with 95 % intervals; details in {workspace.reports / AGREEMENT_FILE}", err=True)
