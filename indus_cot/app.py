"""The `indus-cot` command: one verb for each stage, and verbs to view and check the results.

Each verb imports heavy modules itself, so that `--help` appears at once.
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
"""Exit code after Ctrl-C, the same as a shell's."""

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
            "--set", help="Set one parameter; may be repeated: `--set select.samples=40`.", metavar="KEY=VALUE"
        ),
    ] = None,
) -> None:
    """**Indus-CoT** turns benchmark archives into a reviewed and validated corpus of tool-integrated inspections.

    `indus-cot repro` runs all DVC stages that are out of date. Each stage is also a verb of its own. It writes to
    `data/<verb>` and records its inputs in a `manifest.json` there.

    Start with `indus-cot repro`, then open `reports/index.html` or run `indus-cot show`.
    """
    inherited = [line for line in os.environ.get(SETTINGS_VARIABLE, "").split("\n") if line]
    context.obj = (profile, inherited + (settings or []))


PANELS: "dict[str, tuple[Callable[..., None], ...]]" = {
    "Pipeline: the stages of dvc.yaml, in this order": (
        pipeline.init, pipeline.params, pipeline.pull, pipeline.select, pipeline.patch, pipeline.prior, pipeline.draft,
        pipeline.assemble, training.sft, training.grpo, evaluation.evaluate, evaluation.report, pipeline.repro,
    ),
    "Publish on the Hugging Face Hub, and restore from it": (publishing.publish, publishing.rehydrate),
    "View and check": (
        evaluation.show, evaluation.rescore, evaluation.compare, publishing.diff, checks.verify, checks.cache,
        checks.doctor,
    ),
}  # fmt: skip
"""The verbs by panel of `--help`."""
for _panel, _verbs in PANELS.items():
    for _verb in _verbs:
        app.command(rich_help_panel=_panel)(_verb)
        if _verb is pipeline.draft:
            app.add_typer(review.review, name="review", rich_help_panel=_panel)

TRAINING = ("accelerate", "peft", "torch", "torchvision", "transformers", "trl")
"""Packages that the extra `train` installs."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; a user's mistake gives one message and exit code 1, never a traceback."""
    try:
        return app(arguments)
    except IndusCotError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING:
            raise
        message = f"error: {error.name} is not installed; training and models in this process need the extra `train`: "
        typer.secho(message + "`pip install -e '.[train]'`", fg="red", err=True)
    except OSError as error:
        typer.secho(f"error: {error.strerror or error}: {error.filename or 'no file named'}", fg="red", err=True)
    except SystemExit as end:
        # Typer prints nothing after Ctrl-C.
        if end.code == INTERRUPTED:
            typer.echo("interrupted; no incomplete output was left behind", err=True)
        raise
    sys.exit(1)
