"""Shared by the verbs: loads the parameters and folder of a run, and prints the summary of a stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.names import check_names

if TYPE_CHECKING:
    from cot_builder.params import Params
    from cot_builder.storage.workspace import Workspace

SETTINGS_VARIABLE = "INDUS_COT_SET"
PROFILE_VARIABLE = "INDUS_COT_PROFILE"
AllowUnpriced = Annotated[
    bool,
    typer.Option(
        "--allow-unpriced", help="Allow models without a price in prices.yaml: no cost estimate, no cap in USD."
    ),
]


def load(context: typer.Context) -> tuple["Params", "Workspace"]:
    """Return the parameters and the folder of this run.

    Raises:
        IndusCotError: the parameters are invalid.
    """
    from cot_builder.params import load_params
    from cot_builder.storage.workspace import Workspace

    params = load_params(*context.obj)
    check_names(params)
    return params, Workspace()


def print_done(folder: Path) -> None:
    """Print a summary of a stage's output from its manifest."""
    from cot_builder.progress import console
    from cot_builder.storage.output import read_manifest

    manifest = read_manifest(folder)
    counts = ", ".join(
        f"{value} {name.replace('_', ' ')}"
        for name, value in manifest["counts"].items()
        if isinstance(value, int | float) and name != "usd"
    )
    if usd := manifest["counts"].get("usd"):
        counts += f"; cost of these answers, including earlier runs: {usd:.{2 if usd >= 1 else 4}f} USD"
    left_out = sum(manifest["left_out"].values())
    console.print(
        f"[bold]{manifest['stage']}[/bold]: {counts} → {folder} ({manifest['seconds']:.1f} s)"
        + (f"; [yellow]{left_out} left out, listed in {folder / 'left_out.csv'}[/yellow]" if left_out else ""),
        highlight=False,
    )
