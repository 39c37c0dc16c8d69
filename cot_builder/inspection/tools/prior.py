"""The tool prior: the normalcy text of a category and view, or of the nearest match.

A category is looked up by its exact name, then in words, then without its trailing number, then by the most similar
name. The returned text names the entry that was used, and says so if it is of another category or view than requested.
"""

import difflib
from collections.abc import Mapping

from cot_builder.inspection.names import category_name, spell_out
from cot_builder.inspection.tools.tool import CLAIM, ToolError, ToolResult, tool


@tool(
    version=5,
    mentions=r"\bprior\b|\bnormalcy\b",
    results=rf"\bprior\b[^.;]{{0,20}}\b{CLAIM}\b|\baccording to the (?:normalcy )?prior\b",
)
def prior(priors: Mapping[tuple[str, str], str], category: str, view: str = "default") -> ToolResult:
    """Look up what a defect-free part of a category looks like.

    Args:
        priors: Text by (category, view).
        category: Category of the part.
        view: Camera or pose.

    Raises:
        ToolError: there is no prior at all, or an argument is no text.
    """
    if not isinstance(category, str) or not category.strip() or not isinstance(view, str):
        raise ToolError(f"category and view must be texts; got {category!r}, {view!r}")
    if not priors:
        raise ToolError("the knowledge base holds no normalcy prior")
    key, note = _nearest_prior(priors, category.strip(), view.strip())
    return ToolResult(f"Normalcy prior for {spell_out(key[0])}, view {key[1]}{note}: {priors[key]}")


def _nearest_prior(priors: Mapping[tuple[str, str], str], category: str, view: str) -> tuple[tuple[str, str], str]:
    """Return the key of the best entry, and a note on how it differs from the request."""
    in_words, base_name = spell_out(category), category_name(category)
    # The question to a student calls both pcb1 and pcb2 "pcb": no note then. "pcb3" asks for that one variant.
    other = "" if in_words == base_name else f"none for {category}, of the same name"
    for matches, note in (
        (lambda name: name == category, ""),
        (lambda name: spell_out(name) == in_words, ""),
        (lambda name: category_name(name) == base_name, other),
    ):
        if matching := [key for key in sorted(priors) if matches(key[0])]:
            in_view = [key for key in matching if key[1] == view]
            notes = "; ".join(filter(None, (note, "" if in_view else f"none for view {view}")))
            return (in_view or matching)[0], f" ({notes})" if notes else ""
    best = max(
        sorted(priors),
        key=lambda key: (difflib.SequenceMatcher(None, base_name, category_name(key[0])).ratio(), key[1] == view),
    )
    return best, f" (none for {category}; the nearest category by name)"
