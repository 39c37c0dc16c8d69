"""The `indus-cot` command: one verb a stage, and a few to look and to check.

Everything heavy is imported inside the verb, so that `--help` appears at once.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indus_cot import checks, evaluation, pipeline, publishing, review, training
from indus_cot.common import PROFILE_VARIABLE, SETTINGS_VARIABLE
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    from collections.abc import Callable


INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell gives it."""

app = typer.Typer(
    name="indus-cot",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


PANELS: "dict[str, tuple[Callable[..., None], ...]]" = {
    "Pipeline: one verb a stage of dvc.yaml, in this order": (
        pipeline.init, pipeline.params, pipeline.pull, pipeline.select, pipeline.patch, pipeline.prior, pipeline.draft,
        pipeline.assemble, training.sft, training.grpo, evaluation.evaluate, evaluation.report, pipeline.repro,
    ),
    "Publish: on the Hugging Face Hub, and back": (publishing.publish, publishing.rehydrate),
    "Look and check": (
        evaluation.show, evaluation.rescore, evaluation.compare, publishing.diff, checks.verify, checks.cache,
        checks.doctor,
    ),
}  # fmt: skip
"""The verbs, by the panel of `--help` that lists them."""
for _panel, _verbs in PANELS.items():
    for _verb in _verbs:
        app.command(rich_help_panel=_panel)(_verb)
        if _verb is pipeline.draft:
            app.add_typer(review.review, name="review", rich_help_panel=_panel)

TRAINING = ("accelerate", "peft", "torch", "torchvision", "transformers", "trl")
"""What the extra `train` adds."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: a user's mistake is one message and exit code 1, never a traceback."""
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
