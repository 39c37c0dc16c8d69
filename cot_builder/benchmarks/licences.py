"""What may be done with the images of a pulled set, and what several licences together ask."""

from collections.abc import Iterable
from dataclasses import replace

from cot_builder.benchmarks.benchmark import SYNTHETIC, Benchmark
from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.params import PullSet

SYNTHETIC_LICENCE = "rendered by this project, free of third-party rights"
HUB = {
    SYNTHETIC_LICENCE: "cc0-1.0",
    "CC0 1.0": "cc0-1.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC BY-ND 4.0": "cc-by-nd-4.0",
    "CC BY-NC-ND 4.0": "cc-by-nc-nd-4.0",
}
"""Identifier on the Hub of each licence whose conditions are known here."""
OTHER, UNKNOWN = "other", "unknown"
CONDITIONS = {
    identifier: frozenset(identifier.split("-")[1:-1] if identifier.startswith("cc-") else ())
    for identifier in HUB.values()
}
"""What each asks: ``by`` to name the owner, ``nc`` no commerce, ``sa`` the same licence, ``nd`` no changes."""


def resolve_benchmark(settings: PullSet) -> Benchmark:
    """The facts of a set: its module's; rendered images are this project's own, and an owner speaks for theirs."""
    facts: Benchmark = load_benchmarks()[settings.benchmark].BENCHMARK
    if settings.source == SYNTHETIC:
        return replace(
            facts,
            licence=SYNTHETIC_LICENCE,
            redistribution="allowed",
            clause="the images are rendered by this project",
            attribution=f"Synthetic stand-in for {facts.title}, rendered by Indus-CoT",
        )
    if settings.licence:
        return replace(
            facts,
            licence=settings.licence,
            redistribution=settings.redistribution or "unknown",
            clause=f"params.yaml states the licence {settings.licence!r} and, as redistribution, "
            f"{settings.redistribution or 'nothing'}",
            attribution=settings.attribution or facts.attribution,
        )
    return facts


def to_hub_licence(licence: str) -> str:
    """Identifier on the Hub: ``other`` for a licence that has none, ``unknown`` where none is stated."""
    return UNKNOWN if licence in ("", "unknown", "none stated") else HUB.get(licence, OTHER)


def combine_licences(identifiers: Iterable[str]) -> str:
    """The identifier whose conditions are those of all of these together: none of them is lost.

    ``other`` where no licence has just these (share-alike with no changes, for one), or where one of them is; an
    unknown one counts as strictest.
    """
    found = set(identifiers)
    for beyond in (UNKNOWN, OTHER):
        if beyond in found:
            return beyond
    due = {condition for identifier in found for condition in CONDITIONS[identifier]}
    return next((identifier for identifier, asked in CONDITIONS.items() if asked == due), OTHER)


def combine_row_licences(texts: str, images: str) -> str:
    """Licence of a row whose texts have the identifier ``texts`` and whose image has the licence ``images``, in words.

    The strictest of both; where that has no identifier, it says which they are.
    """
    found = combine_licences([texts, to_hub_licence(images)])
    return f"{found}: {texts} and {images}" if found in (OTHER, UNKNOWN) else found
