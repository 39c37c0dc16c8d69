"""Verbs of `indus-cot review`: serve Label Studio, push drafts, pull reviews, and see how far they are."""

from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import load

if TYPE_CHECKING:
    pass


review = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Expert review in Label Studio: serve, push the drafts, pull what was said of them.",
)


@review.command()
def serve(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(help="Instead of that of review.url.", min=1, max=65535)] = None,
    database: Annotated[
        str,
        typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/NAME; SQLite without.", envvar="INDUS_COT_DATABASE"),
    ] = "",
) -> None:
    """Start Label Studio on this machine, in an environment of its own below .label-studio; Ctrl-C ends it.

    The first start installs it and makes an account; it says where to log in.
    """
    from urllib.parse import urlsplit

    from annotation.server import serve as start

    params, workspace = load(context)
    start(workspace.label_studio, port or urlsplit(params.review.url).port or 8080, database=database or None)


PriorsOnly = Annotated[
    bool, typer.Option("--priors", help="Only the normalcy priors: they can be reviewed before anything is drafted.")
]


@review.command()
def push(context: typer.Context, priors: PriorsOnly = False) -> None:
    """Send priors and drafts to Label Studio, one task each, the ones most worth a look first; again, what changed."""
    from annotation.priors import push as send_priors
    from annotation.push import push as send

    params, workspace = load(context)
    told = send_priors(params, workspace)
    typer.echo(
        f"review push of priors: {told.created} new, {told.updated} updated, {told.repaired} repaired, "
        f"{told.unchanged} unchanged, {told.withdrawn} withdrawn; {told.set_aside} reviews of changed texts set aside"
    )
    typer.echo(f"review priors at {params.review.url}/projects/{told.project}/data", err=True)
    if priors:
        return
    sent = send(params, workspace)
    typer.echo(
        f"review push: {sent.created} tasks new, {sent.updated} updated, {sent.repaired} repaired, "
        f"{sent.unchanged} unchanged, {sent.withdrawn} withdrawn; {sent.set_aside} reviews of changed drafts set aside"
        + (f"; {sent.elsewhere} decided by another expert" if sent.elsewhere else "")
        + (f"; {sent.to_settle} to be settled by adjudication" if sent.to_settle else "")
    )
    for title, number in sent.projects.items():
        typer.echo(f"{title}: {params.review.url}/projects/{number}/data", err=True)


@review.command("pull")
def pull_reviews(context: typer.Context, priors: PriorsOnly = False) -> None:
    """Bring back what experts said since the last time: tables below data/review and data/prior_review.

    Then: `indus-cot repro`.
    """
    from annotation.priors import pull as fetch_priors
    from annotation.pull import pull as fetch

    params, workspace = load(context)
    said = fetch_priors(params, workspace)
    typer.echo(
        f"review pull of priors: {said.new} new, {said.total} in all → {workspace.prior_reviews}; "
        f"{said.returned} returned to the reviewer with the reason, {said.skipped} not answered"
    )
    if priors:
        return
    brought = fetch(params, workspace)
    typer.echo(
        f"review pull: {brought.new} new or changed, {brought.total} in all → {workspace.reviews}; "
        f"{brought.returned} sent back to the reviewer with the reason, {brought.skipped} skipped"
    )
    for title in brought.unread:
        typer.echo(
            f"review pull: not read: the project {title!r}, which has annotations and was changed since it was read; "
            "review.annotators names nobody who works there. To bring what was said, name its annotator (or none, "
            "for the project of that time) and pull once",
            err=True,
        )


@review.command("status")
def review_status(context: typer.Context) -> None:
    """How far the review is and what it says of the drafts, from the reviews pulled so far."""
    from datetime import UTC, datetime

    from rich.table import Table

    from annotation.status import status
    from cot_builder.progress import console

    params, workspace = load(context)
    found = status(params, workspace, datetime.now(UTC))
    people = ", ".join(f"{name} {count}" for name, count in found.reviewers.items())
    typer.echo(
        f"{found.decided} of {found.drafts} drafts decided, {found.sent_back} sent back, {found.stale} reviews of "
        f"drafts that have changed since; {found.disagreements} disagreements to settle"
        + (f"; by {people}" if people else "")
    )
    typer.echo(
        f"{found.pages_done} of {found.pages} pages done; {found.seconds:.0f} s a page (median), "
        f"{found.hours_left:.1f} hours left; {found.a_day:.1f} pages a day in the last week"
        + (f", finished {found.finished:%Y-%m-%d}" if found.finished and found.pages > found.pages_done else "")
    )
    if found.shares:
        table = Table(
            "drafts", "reviewed", "accepted", "fixed", "taken", "95 % interval", box=None, header_style="bold"
        )
        for share in found.shares:
            low, high = share.interval
            taken = f"{100 * (share.accepted + share.fixed) / share.reviewed:.0f} %"
            counts = (share.reviewed, share.accepted, share.fixed)
            table.add_row(share.name, *map(str, counts), taken, f"{100 * low:.0f} to {100 * high:.0f} %")
        console.print(table)
    if found.problems:
        typer.echo(f"sent back for: {', '.join(f'{name} {count}' for name, count in found.problems.items())}")
    if found.usd_an_accepted is not None:
        typer.echo(
            f"each draft taken did cost {found.usd_an_accepted:.4f} USD to draft and {found.seconds_an_accepted:.0f} s "
            "to review"
        )


@review.command()
def agree(context: typer.Context) -> None:
    """How far several experts agree, how much each has done, and whether they still read; reports/agreement.json."""
    from rich.table import Table

    from annotation.agreement import FILE, Figure
    from annotation.agreement import agree as hold
    from cot_builder.progress import console

    def shown(figure: Figure) -> str:
        if figure.value is None:
            return "all the same" if figure.units else ""
        interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
        return f"{figure.value:.2f}{interval}, n={figure.units}"

    params, workspace = load(context)
    found = hold(params, workspace)
    typer.echo(
        f"{found.shared} drafts reviewed by two or more, {found.disagreements} disagreements to settle, "
        f"{found.settled} settled"
    )
    if found.groups:
        table = Table("", "verdict, κ or α", "type", "box IoU", "mask Dice", box=None, header_style="bold")
        for group in found.groups:
            figures = (group.verdict, group.type, group.box_iou, group.mask_dice)
            table.add_row(group.who, *map(shown, figures))
        console.print(table)
    table = Table(
        "expert", "done", "accepted", "fixed", "rejected", "hours", "s a page", "planted mistakes caught",
        "earlier half", "later half", "p", box=None, header_style="bold",
    )  # fmt: skip
    for expert in found.experts:
        done = f"{expert.reviews}{f' of {expert.assigned}' if expert.assigned else ''}"
        verdicts = (str(expert.verdicts.get(name, 0)) for name in ("accepted", "fixed", "rejected"))
        caught = map(shown, (expert.caught, expert.caught_first, expert.caught_last))
        drift = "" if expert.drift is None else f"{expert.drift:.2f}"
        table.add_row(expert.who, done, *verdicts, f"{expert.hours:.1f}", f"{expert.seconds:.0f}", *caught, drift)
    console.print(table)
    typer.echo(f"coefficients with 95 % intervals, more in {workspace.reports / FILE}", err=True)
