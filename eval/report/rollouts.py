"""Writes the page of the rollouts that GRPO kept; it is updated during the training."""

from pathlib import Path

from cot_builder.storage.output import write_text
from eval.report.html import render
from eval.report.training import read_step

PAGE = Path("grpo", "rollouts.html")


def write_rollouts(kept: Path, reports: Path) -> None:
    """Write ``grpo/rollouts.html`` with every kept step, the first at the top.

    Args:
        kept: Folder of the rollouts, with one JSON file per step.
        reports: Folder of the reports.

    Raises:
        IndusCotError: a file is damaged.
    """
    steps = [read_step(path, "grpo") for path in sorted(kept.glob("*.json"))]
    write_text(reports / PAGE, render("rollouts.html.jinja", [], {"steps": steps}))
