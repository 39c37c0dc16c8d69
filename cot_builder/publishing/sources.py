"""Source sets of the images of a corpus, and the terms of their licences."""

from pathlib import Path
from typing import NamedTuple

from cot_builder.benchmarks.benchmark import Benchmark
from cot_builder.benchmarks.licences import CONDITIONS, SYNTHETIC_LICENCE, resolve_benchmark, to_hub_licence
from cot_builder.corpus.reading import read_columns
from cot_builder.params import Params
from schemas.errors import IndusCotError


class Source(NamedTuple):
    """A set of the corpus: its facts, and whether its images are embedded in the rows."""

    facts: Benchmark
    embedded: bool
    obtain: str


def read_sources(params: Params, corpus: Path) -> dict[str, Source]:
    """List the sets of the corpus, and whether their images may be embedded.

    Raises:
        IndusCotError: a set is missing in the parameters; its rows have another licence; ``publish.images`` is embed
            although the licence of a set forbids redistribution.
    """
    found: dict[str, Source] = {}
    table = read_columns(corpus, ("source_set", "licence")).unique()
    for name, licence in sorted(table.iter_rows()):
        if name not in params.pull:
            raise IndusCotError(
                f"{corpus}: has rows of the set {name}, which is not in params.yaml, so its licence is unknown. "
                "Run with the profile that the corpus was made with"
            )
        facts = resolve_benchmark(params.pull[name])
        adapts = "nd" not in CONDITIONS.get(to_hub_licence(facts.licence), ())
        if facts.licence != licence:
            raise IndusCotError(
                f"{corpus}: rows of {name} have the licence {licence!r}, params.yaml and its module say "
                f"{facts.licence!r}; run `indus-cot repro assemble` again"
            )
        allowed = facts.redistribution == "allowed" and adapts
        if params.publish.images == "embed" and not allowed:
            raise IndusCotError(
                f"publish: the images of {name} ({facts.title}, licence {facts.licence}) may not be redistributed: "
                f"redistribution is {facts.redistribution} ({facts.clause})"
                + ("" if adapts else "; and the licence forbids derived copies such as crops")
                + ". Set publish.images to auto, which "
                "publishes them by reference, or to reference"
            )
        found[name] = Source(facts, allowed and params.publish.images != "reference", _describe_obtaining(name, facts))
    return found


def _describe_obtaining(name: str, facts: Benchmark) -> str:
    if facts.licence == SYNTHETIC_LICENCE:
        return (
            f"rendered by `indus-cot pull {name}` (source: synthetic), with the parameters of the card; then "
            f"`indus-cot rehydrate REPO --source {name}=data/pull/{name}`"
        )
    where = facts.homepage or "ask the owner of the images"
    return f"{facts.title}: {where}; then `indus-cot rehydrate REPO --source {name}=PATH`"
