"""Writes the page of `make learn`: its claims, every arm, which defects are visible, and the curves of GRPO."""

import argparse
from pathlib import Path

from cot_builder.progress import console
from cot_builder.storage.output import write_text
from eval.report.html import render
from eval.report.training import read_learn_result
from schemas.errors import IndusCotError


def write_learn_page(reports: Path) -> Path:
    """Write ``learn.html`` next to the ``learn.json`` that `train.learn` wrote to ``reports``.

    Raises:
        IndusCotError: ``learn.json`` is missing or damaged.
    """
    target = reports / "learn.html"
    write_text(target, render("learn.html.jinja", [], {"found": read_learn_result(reports / "learn.json")}))
    return target


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.report.learn", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder with learn.json")
    try:
        console.print(f"open {write_learn_page(parser.parse_args().reports)}", highlight=False)
    except IndusCotError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
