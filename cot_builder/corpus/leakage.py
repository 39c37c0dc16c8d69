"""The leakage report: what was done so that no evaluation image or category is trained on, and what it cannot show."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from cot_builder.storage.output import write_text

MAX_LISTED = 50
CANNOT_PROVE = (
    "Categories are compared by name. Two names of one object without a word in common would pass; "
    "name them in `select.drop_categories`.",
    "Images are compared with the local copies of the evaluation sets only; where a copy is partial, "
    "the rest was not seen.",
    "The comparison finds copies that were re-encoded, resized or slightly brightened. It does not find cut-outs, "
    "rotated or mirrored copies, or another photograph of the same part.",
    "An image without features (a blank surface) is compared by its bytes alone.",
    "Nothing is known of what a teacher or a backbone model saw before.",
)


def write_leakage(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``leakage.json`` with all facts and ``leakage.md`` for a reviewer."""
    facts = facts | {"cannot_prove": list(CANNOT_PROVE)}
    write_text(folder / "leakage.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "leakage.md", _render(facts))


def _render(facts: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cot_builder.corpus", "templates"),
        extensions=["jinja2.ext.do"],
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("leakage.md.jinja").render(facts, shown=MAX_LISTED)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"
