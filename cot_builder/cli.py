"""The `indus-cot` command: one verb a stage, and a few to look and to check.

Everything heavy is imported inside the verb, so that `--help` appears at once.
"""

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cot_builder.runtime import settle
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cot_builder.params import Params
    from cot_builder.stages.endpoint import Estimate
    from cot_builder.storage.workspace import Workspace
    from train.plan import Plan

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell gives it."""
SETTINGS_VARIABLE = "INDUS_COT_SET"
PROFILE_VARIABLE = "INDUS_COT_PROFILE"

app = typer.Typer(
    name="indus-cot",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
PIPELINE = "Pipeline: one verb a stage of dvc.yaml, in this order"
LOOK = "Look and check"


@app.callback()
def options(
    context: typer.Context,
    profile: Annotated[
        str, typer.Option(envvar=PROFILE_VARIABLE, help="Overlay profiles/NAME.yaml on params.yaml.", metavar="NAME")
    ] = "default",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set one parameter, as often as needed: `--set select.samples=40`.", metavar="KEY=VALUE"
        ),
    ] = None,
) -> None:
    """**Indus-CoT**: benchmark archives in, a reviewed and validated corpus of tool-integrated inspections out.

    `indus-cot repro` runs everything that is out of date, as DVC stages. Each stage is a verb of its own too,
    writes to `data/<verb>`, and leaves a `manifest.json` there that says what it was made from.

    Start with `indus-cot repro`, then open `reports/index.html`, or `indus-cot show`.
    """
    inherited = [line for line in os.environ.get(SETTINGS_VARIABLE, "").split("\n") if line]
    context.obj = (profile, inherited + (settings or []))


def _load(context: typer.Context) -> tuple["Params", "Workspace"]:
    from cot_builder.params import load_params
    from cot_builder.storage.workspace import Workspace

    return load_params(*context.obj), Workspace()


def _done(folder: Path) -> None:
    from cot_builder.progress import console
    from cot_builder.storage.output import read_manifest

    manifest = read_manifest(folder)
    counts = ", ".join(
        f"{value} {name.replace('_', ' ')}"
        for name, value in manifest["counts"].items()
        if isinstance(value, int | float) and name != "usd"
    )
    if usd := manifest["counts"].get("usd"):
        counts += f"; cost of these answers, whenever paid: {usd:.{2 if usd >= 1 else 4}f} USD"
    left_out = sum(manifest["left_out"].values())
    console.print(
        f"[bold]{manifest['stage']}[/bold]: {counts} → {folder} ({manifest['seconds']:.1f} s)"
        + (f"; [yellow]{left_out} left out, named in {folder / 'left_out.csv'}[/yellow]" if left_out else ""),
        highlight=False,
    )


@app.command(rich_help_panel=PIPELINE)
def pull(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A set of the `pull` section of params.yaml.")]
) -> None:
    """Read a benchmark from a folder, an archive, a URL or the Hub into shards of original bytes."""
    from cot_builder.stages.pull import pull as stage

    params, workspace = _load(context)
    stage(name, params, workspace)
    _done(workspace.pull(name))


@app.command(rich_help_panel=PIPELINE)
def select(context: typer.Context) -> None:
    """Pick the training samples: category-disjoint, balanced, defect visible, no near-duplicates."""
    from cot_builder.stages.select import select as stage

    params, workspace = _load(context)
    stage(params, workspace)
    _done(workspace.select)


@app.command(rich_help_panel=PIPELINE)
def patch(context: typer.Context) -> None:
    """Make global/local patch pairs, each with its box on the original image."""
    from cot_builder.stages.patch import patch as stage

    params, workspace = _load(context)
    stage(params, workspace)
    _done(workspace.patch)


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and cost; ask nothing.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Ask the endpoint anew; kept answers are replaced.")]
AllowUnpriced = Annotated[
    bool,
    typer.Option("--allow-unpriced", help="Ask a model that prices.yaml does not know: no estimate, no cap in USD."),
]


def _refuse_offline(params: "Params", verb: str, **flags: bool) -> None:
    given = " ".join(f"--{name.replace('_', '-')}" for name, on in flags.items() if on)
    if given and params.teacher.backend == "offline":
        raise IndusCotError(f"{verb} {given}: teacher.backend is offline, which asks nobody and costs nothing")


@app.command(rich_help_panel=PIPELINE)
def prior(
    context: typer.Context, dry_run: DryRun = False, refresh: Refresh = False, allow_unpriced: AllowUnpriced = False
) -> None:
    """Write what a defect-free part looks like, for each category and view, from normal training images."""
    from cot_builder.stages.prior import estimate_prior
    from cot_builder.stages.prior import prior as stage

    params, workspace = _load(context)
    _refuse_offline(params, "prior", dry_run=dry_run, refresh=refresh)
    if dry_run:
        found = estimate_prior(params, workspace, refresh=refresh, allow_unpriced=allow_unpriced)
        _print_estimate(found, params, "priors")
        return
    stage(params, workspace, refresh=refresh, allow_unpriced=allow_unpriced)
    _done(workspace.prior)


@app.command(rich_help_panel=PIPELINE)
def draft(
    context: typer.Context,
    dry_run: DryRun = False,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Try the samples of reports/failures.csv again, and no other.")
    ] = False,
    refresh: Refresh = False,
    allow_unpriced: AllowUnpriced = False,
) -> None:
    """Draft trajectories with the teacher and real tool calls, and gate them.

    With `teacher.backend: endpoint` a model behind an OpenAI-compatible server writes them. Its answers are kept
    in `.indus-cot/answers.sqlite`: stop and start as you like, nothing is paid twice. Begin with `--dry-run`, and
    set `budget.usd`.
    """
    from cot_builder.stages.draft import draft as stage
    from cot_builder.stages.draft import estimate_draft

    params, workspace = _load(context)
    _refuse_offline(params, "draft", dry_run=dry_run, only_failed=only_failed, refresh=refresh)
    if dry_run:
        found = estimate_draft(
            params, workspace, refresh=refresh, only_failed=only_failed, allow_unpriced=allow_unpriced
        )
        _print_estimate(found, params, "samples")
        return
    stage(params, workspace, refresh=refresh, only_failed=only_failed, allow_unpriced=allow_unpriced)
    _done(workspace.draft)
    _tell_failed(workspace, params.teacher.backend)


def _tell_failed(workspace: "Workspace", backend: str) -> None:
    from cot_builder.progress import console
    from cot_builder.storage.output import read_manifest

    counts = read_manifest(workspace.draft)["counts"]
    if without := counts["samples"] - counts["trajectories"]:
        again = "; `indus-cot draft --only-failed` asks about them again" if backend == "endpoint" else ""
        console.print(
            f"{without} of {counts['samples']} samples have no trajectory: reports/failures.csv says why{again}",
            style="yellow",
            highlight=False,
        )


def _print_estimate(found: "Estimate", params: "Params", unit: str) -> None:
    from rich.table import Table

    from cot_builder.progress import console

    table = Table("step", "kept", "to ask", "input tokens", "output tokens", "USD", box=None, header_style="bold")
    for step in dict.fromkeys([*found.kept, *found.requests]):
        output = f"{found.output[step]}{'' if step in found.measured or not found.requests[step] else ' (assumed)'}"
        cost = "unknown" if step in found.unpriced else f"{found.usd[step]:.4f}"
        cells = (found.kept[step], found.requests[step], found.input[step], output, cost)
        table.add_row(step, *(str(cell) for cell in cells))
    console.print(table)
    kept, asked = sum(found.kept.values()), sum(found.requests.values())
    cost = "unknown" if found.unpriced else f"{sum(found.usd.values()):.2f}"
    share = 100 * kept / (kept + asked) if kept + asked else 0.0
    tokens = sum(found.input.values()) + sum(found.output.values())
    typer.echo(
        f"{found.samples} {unit}, {kept + asked} requests, {share:.0f} % of them kept already; to ask: {asked} "
        f"requests, about {tokens} tokens, {cost} USD at the prices of prices.yaml. Corrections come on top, at "
        f"most {params.teacher.corrections} a form. Spent so far, in all runs: {found.spent_usd:.2f} USD; "
        f"cap: {params.budget.usd if params.budget.usd is not None else 'none'} USD, "
        f"{params.budget.tokens if params.budget.tokens is not None else 'none'} tokens (budget). Nothing was asked."
    )
    if found.failed and not asked:
        typer.echo(
            f"{found.failed} samples of the last run have no trajectory; only --only-failed asks about them again "
            "(kept answers do not do)"
        )


review = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Expert review in Label Studio: serve, push the drafts, pull what was said of them.",
)
app.add_typer(review, name="review", rich_help_panel=PIPELINE)


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

    params, workspace = _load(context)
    start(workspace.label_studio, port or urlsplit(params.review.url).port or 8080, database=database or None)


PriorsOnly = Annotated[
    bool, typer.Option("--priors", help="Only the normalcy priors: they can be reviewed before anything is drafted.")
]


@review.command()
def push(context: typer.Context, priors: PriorsOnly = False) -> None:
    """Send priors and drafts to Label Studio, one task each, the ones most worth a look first; again, what changed."""
    from annotation.priors import push as send_priors
    from annotation.push import push as send

    params, workspace = _load(context)
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

    params, workspace = _load(context)
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

    params, workspace = _load(context)
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

    params, workspace = _load(context)
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


@app.command(rich_help_panel=PIPELINE)
def assemble(context: typer.Context) -> None:
    """Apply reviews, validate every row and write Indus-CoT, ready for `datasets.load_dataset`."""
    from cot_builder.stages.assemble import assemble as stage

    params, workspace = _load(context)
    stage(params, workspace)
    _done(workspace.indus_cot)


PrintPlan = Annotated[
    bool, typer.Option("--print-plan", help="Say what it would take: devices, batch, tokens, memory, steps; no more.")
]


@app.command(rich_help_panel=PIPELINE)
def sft(context: typer.Context, print_plan: PrintPlan = False) -> None:
    """Fine-tune a model on Indus-CoT; writes models/sft. A killed run goes on when started again."""
    from train import sft as stage

    _train(context, "sft", stage.print_plan if print_plan else stage.sft)


@app.command(rich_help_panel=PIPELINE)
def grpo(context: typer.Context, print_plan: PrintPlan = False) -> None:
    """Reinforce the model with the real tools in the loop; writes models/grpo, and reports/grpo/rollouts.html.

    A killed run goes on when started again.
    """
    from train import grpo as stage

    _train(context, "grpo", stage.print_plan if print_plan else stage.grpo)


def _train(context: typer.Context, name: str, run: "Callable[[Params, Workspace], Plan | None]") -> None:
    # Read once, when torch is loaded. Threads that spin while they wait make a training many times slower as soon as
    # anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from train import processes

    params, workspace = _load(context)
    plan, state = run(params, workspace), processes.state()
    # Of several processes one speaks, once its output is in place. They part together: a thread of gloo that is still
    # at work when the interpreter ends would abort it.
    if state.is_main_process:
        if plan:
            typer.echo(str(plan))
        else:
            _done(workspace.models / name)
    state.wait_for_everyone()
    state.destroy_process_group()


@app.command(rich_help_panel=PIPELINE)
def evaluate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A set of the `pull` section of params.yaml with role evaluate.")],
    limit: Annotated[
        int | None, typer.Option(help="So many images, half of each label; instead of evaluate.limit.", min=1)
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the results; another run beside them: `results-no-tools`.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask anew what is kept: for a model that has changed under its name.")
    ] = False,
    allow_unpriced: AllowUnpriced = False,
) -> None:
    """Let a policy inspect the test images of a benchmark; writes results/SET. A killed run goes on when started again.

    `indus-cot --set evaluate.mode=agent-no-tools evaluate SET --results results-no-tools`, then
    `indus-cot compare results results-no-tools`.
    """
    # As for training: read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from eval.evaluate import evaluate as stage
    from eval.metrics import describe

    params, workspace = _load(context)
    if limit is not None:
        params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"limit": limit})})
    found = stage(name, params, workspace, results, refresh=refresh, allow_unpriced=allow_unpriced)
    _done((results or workspace.results) / name)
    scores, listed = found.overall, found.listing
    typer.echo(
        f"{name}, {found.run.policy} {found.run.mode}: balanced accuracy {describe(scores.balanced_accuracy)}, recall "
        f"{describe(scores.recall)}, specificity {describe(scores.specificity)}, on {listed.evaluated} of "
        f"{listed.published or listed.available} {'published' if listed.published else 'test'} images"
        f"{' (rendered ones)' if listed.same_list is False and not listed.published else ''}"
    )
    for flag in found.flags:
        typer.secho(f"  {flag}", fg="yellow")


SHOWN_CHANGES = 30


@app.command(rich_help_panel=LOOK)
def rescore(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of results, of one set or of several: `results`, `results/mpdd`."),
    ] = None,
    counts: Annotated[
        str, typer.Option(help="Somebody's published counts instead: `tp=45,fn=9,tn=270,fp=16`.", metavar="COUNTS")
    ] = "",
) -> None:
    """Compute every figure again from predictions.parquet alone, write metrics.json, and say what changed."""
    from rich.table import Table

    from cot_builder.progress import console
    from eval.macro import write_overview
    from eval.metrics import PREDICTIONS_FILE, describe
    from eval.rescore import of_counts
    from eval.rescore import rescore as again

    if counts:
        typer.echo("\n".join(f"{name}: {100 * value:.2f}" for name, value in of_counts(counts).items()))
    if not counts and not results:
        results = [Path("results")]
    for item in again(results or []):
        scores = item.found.overall
        changed = f"{len(item.changes)} figures changed" if item.changes else "nothing changed"
        typer.echo(
            f"{item.folder}: balanced accuracy {describe(scores.balanced_accuracy)}, recall {describe(scores.recall)}, "
            f"specificity {describe(scores.specificity)}, {scores.images} images of {scores.parts} parts, "
            f"{scores.unparsed} unparsed; {changed}"
        )
        for flag in item.found.flags:
            typer.secho(f"  {flag}", fg="yellow")
        if item.changes:
            table = Table("figure", "was", "is", box=None, header_style="bold")
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
            mean = describe(run.balanced_accuracy)
            typer.echo(f"{run.run}: balanced accuracy {mean}, mean over {', '.join(run.sets)}{missing}")


@app.command(rich_help_panel=LOOK)
def compare(
    first: Annotated[Path, typer.Argument(help="Results of one run.")],
    second: Annotated[Path, typer.Argument(help="Results of the other.")],
    file: Annotated[Path | None, typer.Option("--json", help="Write the comparison there too.", metavar="FILE")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2000,
    seed: Annotated[int, typer.Option(help="Of resamples and permutations.", min=0)] = 7,
) -> None:
    """Say how far two runs are apart on the images that both answered, and how surely: the second minus the first."""
    import json

    from rich.table import Table

    from cot_builder.progress import console
    from cot_builder.storage.output import write_text
    from eval.compare import compare as hold
    from eval.compare import plain, shown

    found = hold(first, second, draws=draws, seed=seed)
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
            typer.echo(f"only {path} has {len(names)}, which are left out: {shown(names)}")
    if file:
        write_text(file, json.dumps(plain(found), indent=1) + "\n")


@app.command(rich_help_panel=PIPELINE)
def report(context: typer.Context) -> None:
    """Write one HTML page that shows the corpus: counts, gates, leakage and a gallery of trajectories."""
    from eval.report import report as stage

    params, workspace = _load(context)
    stage(params, workspace)
    typer.echo(f"open {workspace.reports / 'index.html'}", err=True)


PUBLISH = "Publish: on the Hugging Face Hub, and back"


@app.command(rich_help_panel=PUBLISH)
def publish(
    context: typer.Context,
    repo: Annotated[str, typer.Option(help="OWNER/NAME on the Hub; publish.repo without.", metavar="OWNER/NAME")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write data/publish and say what would be sent; send nothing.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="As a pull request to a repository that is there.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private; refuse one that is there and public.")
    ] = False,
    tag: Annotated[bool, typer.Option("--tag", help="Tag the commit with its version, such as v1.2.0.")] = False,
    parent: Annotated[
        str, typer.Option(help="Refuse unless this is still the repository's last commit.", metavar="COMMIT")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help="Publish this trained model instead: models/sft or models/grpo.")
    ] = None,
) -> None:
    """Publish the corpus: shards, card, changelog and Croissant, as one commit; then load it back and compare.

    Licences decide what leaves: images whose set does not allow it go by reference (`publish.images`). Only what
    changed is uploaded; where nothing did, nothing is committed. An interrupted upload goes on where it stopped.
    The token is that of `hf auth login`, or $HF_TOKEN.
    """
    from cot_builder.publishing.report import told, told_model

    params, workspace = _load(context)
    if tag and pr:
        raise IndusCotError(
            "publish: what is proposed with --pr is no version yet; leave --tag out, and run `indus-cot publish --tag` "
            "when it is merged"
        )
    if model is not None:
        from cot_builder.publishing.model import plan_model, publish_model

        if not repo:
            raise IndusCotError("publish --model: say where with --repo OWNER/NAME")
        if dry_run:
            planned, _ = plan_model(
                params, workspace, model, repo, pull_request=pr, private=private, parent=parent, offline=True
            )
            typer.echo(told_model(planned))
            return
        sent = publish_model(params, workspace, model, repo, pull_request=pr, private=private, tag=tag, parent=parent)
        typer.echo(told_model(sent.plan, sent))
        return
    from cot_builder.publishing.publish import plan as stage_plan
    from cot_builder.publishing.publish import publish as stage

    name = repo or params.publish.repo
    if not name:
        raise IndusCotError("publish: say where with --repo OWNER/NAME, or in publish.repo of params.yaml")
    if dry_run:
        made, _ = stage_plan(params, workspace, name, pull_request=pr, private=private, parent=parent, offline=True)
        typer.echo(told(made))
        return
    done = stage(params, workspace, name, pull_request=pr, private=private, tag=tag, parent=parent)
    typer.echo(told(done.plan, done))


@app.command(rich_help_panel=PUBLISH)
def rehydrate(
    corpus: Annotated[str, typer.Argument(help="A published folder, or OWNER/NAME[@REVISION] on the Hub.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own copy of a set, as often as needed: a folder, an archive, or `data/pull/SET`.",
            metavar="SET=PATH",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/rehydrated"),
) -> None:
    """Make a corpus whole whose images were published by reference, from your own copies; every hash is checked."""
    from cot_builder.publishing.rehydrate import rehydrate as make

    copies: dict[str, str] = {}
    for item in source or []:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise IndusCotError(f"--source {item}: write SET=PATH, such as --source real_iad=downloads/real_iad")
        if name in copies:
            raise IndusCotError(f"--source {item}: {name} is {copies[name]} already; name one folder that holds both")
        copies[name] = path
    made = make(corpus, copies, to)
    typer.echo(f"rehydrate: {made.images} images made in {made.rows} rows, every sha256 as published → {made.folder}")


@app.command(rich_help_panel=LOOK)
def diff(
    before: Annotated[str, typer.Argument(help="A corpus: a folder, or OWNER/NAME[@REVISION] on the Hub.")],
    after: Annotated[str, typer.Argument(help="Another one.")] = "data/indus_cot",
) -> None:
    """Say what changed between two corpora: rows added, removed, changed, reviewed again."""
    from cot_builder.publishing.changes import diff as compare

    typer.echo(compare(before, after)[1])


@app.command(rich_help_panel=PIPELINE)
def repro(
    context: typer.Context,
    targets: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; all without one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the stages even if nothing changed.")] = False,
) -> None:
    """Run every stage that is out of date: `dvc repro` under this profile and these settings."""
    from cot_builder import warm
    from cot_builder.git import allow_missing_git
    from cot_builder.storage.workspace import Workspace

    workspace = Workspace()
    allow_missing_git(workspace.root)
    # With targets, DVC takes up stages in an order that differs from run to run: a frozen one may come before `params`.
    if not all(path.is_file() for path in (workspace.params, workspace.reviews, workspace.prior_reviews)):
        from cot_builder.stages.resolve import resolve

        resolve(*_load(context))
    profile, settings = context.obj
    environment = os.environ | {
        warm.VARIABLE: warm.start(),
        PROFILE_VARIABLE: profile,
        SETTINGS_VARIABLE: "\n".join(settings),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else []), *(targets or [])]
    os.execve(sys.executable, command, environment)


@app.command(rich_help_panel=PIPELINE)
def params(context: typer.Context) -> None:
    """Write the parameters in force to data/params.json, which the DVC stages depend on."""
    from cot_builder.stages.resolve import resolve

    resolve(*_load(context))


@app.command(rich_help_panel=LOOK)
def verify(
    corpus: Annotated[Path, typer.Argument(help="Folder of a corpus.")] = Path("data/indus_cot"),
) -> None:
    """Re-run every tool call of a corpus and compare; exits with 1 at the first difference and names it."""
    from cot_builder.stages.verify import verify as check

    rows, calls = check(corpus)
    typer.echo(f"{corpus}: {rows} trajectories, {calls} tool calls replayed, all equal")


@app.command(rich_help_panel=LOOK)
def cache(
    context: typer.Context,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete answers; say which with --older-than or --model.")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(help="Of --prune: answers older than so many days.", min=0)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of --prune: answers of this model.")] = None,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Move what can still be read of a damaged store into a new one.")
    ] = False,
) -> None:
    """Show the kept answers of the endpoint: how many, how large, what was spent on which model."""
    from rich.table import Table

    from cot_builder.endpoint import answers
    from cot_builder.progress import console

    _, workspace = _load(context)
    path = answers.store(workspace.root)
    if not prune and (older_than is not None or model is not None):
        raise IndusCotError("cache: --older-than and --model say which answers --prune deletes; add --prune")
    if salvage:
        if path.is_file() and answers.is_sound(path):
            typer.echo(f"{path}: the store is sound; nothing to salvage")
            return
        kept, damaged = answers.salvage(path)
        typer.echo(f"{kept} answers moved to {path}; what was there before is {damaged}")
        return
    if not path.exists():
        typer.echo(f"{path}: no endpoint has been asked yet")
        return
    store = answers.Answers(path)
    try:
        if prune:
            if older_than is None and model is None:
                raise IndusCotError("cache --prune: say which answers with --older-than DAYS, --model NAME or both")
            typer.echo(f"{store.prune(older_than, model)} answers deleted; the record of what was spent stays")
            return
        table = Table(
            "model", "answers paid for", "input tokens", "output tokens", "USD", box=None, header_style="bold"
        )
        for row in store.spend():
            table.add_row(row.model, str(row.answers), str(row.input), str(row.output), f"{row.usd:.4f}")
        console.print(table)
        steps = ", ".join(f"{count} {step}" for _, step, count in store.counts())
        usd, tokens = store.spent()
        typer.echo(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, kept: {steps or 'none'}; spent {usd:.4f} USD, {tokens} tokens"
        )
    finally:
        store.close()


@app.command(rich_help_panel=LOOK)
def show(
    sample: Annotated[
        str, typer.Argument(help="Id of a row or of a sample, or a part of one; a random row without.")
    ] = "",
    corpus: Annotated[Path, typer.Option(help="Folder of a corpus.")] = Path("data/indus_cot"),
    browser: Annotated[bool, typer.Option("--open", help="Open it as a page, with its images.")] = False,
) -> None:
    """Print one trajectory as an inspector would follow it, or open it as a page."""
    from eval.show import show as display

    display(corpus, sample, browser)


@app.command(rich_help_panel=LOOK)
def doctor(context: typer.Context) -> None:
    """Check the environment, the parameters and the data, and say what to do about each fault."""
    from cot_builder.doctor import doctor as examine

    if not examine(*context.obj):
        raise typer.Exit(1)


TRAINING = ("accelerate", "peft", "torch", "torchvision", "transformers", "trl")
"""What the extra `train` adds."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: a user's mistake is one message and exit code 1, never a traceback."""
    from cot_builder import warm

    code = warm.ask(sys.argv[1:] if arguments is None else arguments)
    if code is not None:
        sys.exit(code)
    settle()
    # Else looking for garbage is a second or two of a stage's end.
    atexit.register(gc.freeze)
    try:
        return app(arguments)
    except IndusCotError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING:
            raise
        message = f"error: {error.name} is not installed; training and models in this process need the extra train: "
        typer.secho(message + "`pip install -e '.[train]'`", fg="red", err=True)
    except OSError as error:
        typer.secho(f"error: {error.strerror or error}: {error.filename or 'no file named'}", fg="red", err=True)
    except SystemExit as end:
        # Typer's own answer to Ctrl-C says nothing.
        if end.code == INTERRUPTED:
            typer.echo("interrupted; nothing half-written was left behind", err=True)
        raise
    sys.exit(1)
