"""Licences of the images of a pulled set, and the combination of several licences."""

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
"""Hub identifier of each licence whose conditions are known."""
OTHER, UNKNOWN = "other", "unknown"
CONDITIONS = {
    identifier: frozenset(identifier.split("-")[1:-1] if identifier.startswith("cc-") else ())
    for identifier in HUB.values()
}
"""Conditions by identifier: ``by`` attribution, ``nc`` no commercial use, ``sa`` same licence, ``nd`` no changes."""


def resolve_benchmark(settings: PullSet) -> Benchmark:
    """Return the facts about a set.

    They come from the module of the data set. For rendered images they are those of this project; for own data, those
    that the owner states in params.yaml.
    """
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
    """Return the Hub identifier of a licence: ``other`` if it has none, ``unknown`` if no licence is stated."""
    return UNKNOWN if licence in ("", "unknown", "none stated") else HUB.get(licence, OTHER)


def combine_licences(identifiers: Iterable[str]) -> str:
    """Return the licence that has exactly the conditions of all given licences together.

    The result is ``other`` if no licence has exactly these conditions (for example share-alike with no changes), or if
    a given licence is ``other``. It is ``unknown`` if a given licence is unknown.
    """
    found = set(identifiers)
    for beyond in (UNKNOWN, OTHER):
        if beyond in found:
            return beyond
    due = {condition for identifier in found for condition in CONDITIONS[identifier]}
    return next((identifier for identifier, asked in CONDITIONS.items() if asked == due), OTHER)


def combine_row_licences(texts: str, images: str) -> str:
    """Return the licence of a row, combined from those of its texts and its image.

    Args:
        texts: Hub identifier of the licence of the texts.
        images: Name of the licence of the image.

    Returns:
        The combined identifier. If it is ``other`` or ``unknown``, both licences are named after it.
    """
    found = combine_licences([texts, to_hub_licence(images)])
    return f"{found}: {texts} and {images}" if found in (OTHER, UNKNOWN) else found
