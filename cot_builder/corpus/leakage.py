"""Write the leakage report: how evaluation images and categories were kept out of training, and its limits."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from cot_builder.storage.output import write_text

MAX_LISTED = 50
CANNOT_PROVE = (
    "Categories are compared by name. Two names of the same object without a common word are not recognised; "
    "add such categories to `select.drop_categories`.",
    "Images are compared only with the local copies of the evaluation sets. If a copy is partial, "
    "the missing images are not compared.",
    "The comparison finds copies that were re-encoded, resized or slightly brightened. It does not find crops, "
    "rotated or mirrored copies, or other photographs of the same part.",
    "An image without features (a blank surface) is compared only by its bytes.",
    "The training data of the teacher and of the backbone model are not known.",
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
