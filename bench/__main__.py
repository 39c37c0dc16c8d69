"""`make bench`: prints the table and writes bench/results.json; `ONLY=name` measures one row anew."""

import importlib
import json
import math
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.paired import Row
from cot_builder.storage.output import read_versions

RESULTS = Path(__file__).parent / "results.json"
ROWS = {
    "pull_tar": "pulling",
    "patch_one_core": "patching",
    "patch_two_workers": "patching",
    "shard_writing": "shards",
    "tool_crop": "tooling",
    "tool_enhance": "tooling",
    "validation": "validation",
    "memory_pull": "memory",
    "memory_patch": "memory",
    "endpoint_rate": "endpoint",
    "endpoint_cached": "endpoint",
    "endpoint_memory": "endpoint",
    "endpoint_against_curator": "endpoint",
    "endpoint_cpu_against_curator": "endpoint",
    "endpoint_against_distilabel": "endpoint",
    "review_push": "reviewing",
    "review_unchanged": "reviewing",
    "review_pull": "reviewing",
    "review_wait": "reviewing",
    "grpo_environment": "training",
    "rewards_share": "training",
    "collator": "training",
    "train_two_processes": "training",
    "evaluate_loop": "evaluating",
    "evaluate_endpoint": "evaluating",
    "rescore": "rescoring",
    "results_page": "results_page",
    "publish_writing": "publishing",
    "publish_preparation": "publishing",
    "publish_change": "publishing",
    "memory_publish": "publishing",
}
"""Function to module. Imported when its turn comes: worker processes import this file again."""


def main() -> None:
    """Run the rows named on the command line, or all."""
    console = Console()
    # As `indus-cot` sets it, for every row alike.
    wanted = sys.argv[1:] or list(ROWS)
    if unknown := [name for name in wanted if name not in ROWS]:
        console.print(f"[red]no row {', '.join(unknown)}; there are: {', '.join(ROWS)}[/red]")
        sys.exit(1)
    table = Table("row", "what", "against", "ratio", "target", "", box=None)
    for name in wanted:
        with console.status(name):
            row = getattr(importlib.import_module(f"bench.{ROWS[name]}"), name)()
        sign = "≥" if row.better == "higher" else "≤"
        verdict = "[green]✓[/green]" if row.met else "[red]✗[/red]"
        table.add_row(row.name, row.what, row.against, f"{row.ratio:.2f}", f"{sign} {row.target}", verdict)
        # After each row: a later one that fails must not cost the minutes this one took.
        _keep(row)
    console.print(table)


def _keep(row: Row) -> None:
    known = {kept["name"]: kept for kept in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    known[row.name] = {
        "name": row.name,
        # JSON has no word for a rival that could not be measured but null.
        "ratio": None if math.isnan(row.ratio) else round(row.ratio, 3),
        "target": row.target,
        "better": row.better,
        "versions": read_versions(),
    }
    RESULTS.write_text(json.dumps([known[name] for name in ROWS if name in known], indent=1) + "\n")


if __name__ == "__main__":
    main()
