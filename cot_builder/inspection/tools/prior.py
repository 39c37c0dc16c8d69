"""prior: the normalcy text of a category and view, or of the nearest there is.

A category is looked up as it is written, then by the name people say, then by the nearest name. The text names the
entry that was used, and says where it is of another category or view than asked.
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
    """The entry to use, and what of it is not as asked."""
    asked, said = spell_out(category), category_name(category)
    # A person says "pcb" of pcb1 and pcb2 alike, and the question to a student does; who writes pcb3 means that one.
    other = "" if asked == said else f"none for {category}, of the same name"
    for matches, note in (
        (lambda name: name == category, ""),
        (lambda name: spell_out(name) == asked, ""),
        (lambda name: category_name(name) == said, other),
    ):
        if same := [key for key in sorted(priors) if matches(key[0])]:
            at_view = [key for key in same if key[1] == view]
            notes = "; ".join(filter(None, (note, "" if at_view else f"none for view {view}")))
            return (at_view or same)[0], f" ({notes})" if notes else ""
    best = max(
        sorted(priors),
        key=lambda key: (difflib.SequenceMatcher(None, said, category_name(key[0])).ratio(), key[1] == view),
    )
    return best, f" (none for {category}; the nearest category by name)"
