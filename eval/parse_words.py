"""Words of ten languages for parsing answers, compiled from ``parse.yaml``."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

Answer = Literal["Yes", "No"]
OPPOSITE: dict[Answer, Answer] = {"Yes": "No", "No": "Yes"}


class Language(NamedTuple):
    """Compiled words of one language; fields as in ``parse.yaml``."""

    spaced: bool
    defective: re.Pattern[str]
    sound: re.Pattern[str]
    kinds: re.Pattern[str]
    before: re.Pattern[str]
    without: re.Pattern[str]
    after: re.Pattern[str]
    cuts: re.Pattern[str]
    """Possible ends of a negation. Groups: always; unless a list of what was negated follows; if a clause begins."""
    verbs: re.Pattern[str]
    unsaid: re.Pattern[str]
    given: re.Pattern[str]


class Words(NamedTuple):
    """Patterns that combine all languages."""

    languages: list[Language]
    yes: re.Pattern[str]
    no: re.Pattern[str]
    hedges: re.Pattern[str]
    refusals: re.Pattern[str]
    asked: re.Pattern[str]
    rest: re.Pattern[str]
    certainly: re.Pattern[str]
    but: re.Pattern[str]
    ends: re.Pattern[str]
    answers: list[tuple[Answer, re.Pattern[str], re.Pattern[str]]]
    """For each language: the answer, its words, and what follows them if they stand as an answer."""
    nothing: re.Pattern[str]
    """The whole text after a label that means "none"."""
    verbs: re.Pattern[str]
    subjects: re.Pattern[str]
    values: list[tuple[Answer, re.Pattern[str]]]
    """Values after a key that mean Yes or No."""
    hedged: re.Pattern[str]
    """A lone hedge after the words that it hedges."""
    of_another: re.Pattern[str]
    """A key other than the verdict with a refusal, such as ``Type: n/a``."""
    labels: re.Pattern[str]
    corrections: re.Pattern[str]


_NEVER = r"(?!)"
_ANSWER_KEYS: tuple[tuple[Answer, str], ...] = (("Yes", "yes"), ("No", "no"))


@cache
def load_words() -> Words:
    """Compile ``parse.yaml``."""
    tables: dict[str, dict[str, Any]] = yaml.safe_load(
        resources.files("eval").joinpath("parse.yaml").read_text("utf-8")
    )

    def one(table: Mapping[str, Any], name: str) -> str:
        listed = "|".join(table.get(name) or [_NEVER])
        return rf"(?<!\w)(?:{listed})(?!\w)" if table["spaced"] else f"(?:{listed})"

    def every(name: str) -> re.Pattern[str]:
        return re.compile("|".join(one(table, name) for table in tables.values()))

    languages = [
        Language(
            spaced=table["spaced"],
            defective=re.compile(one(table, "defective")),
            sound=re.compile(one(table, "sound")),
            kinds=re.compile(one(table, "kinds")),
            before=re.compile(one(table, "before")),
            without=re.compile(one(table, "without")),
            after=re.compile("|".join(table["after"]) if table["after"] else _NEVER),
            # After "following", a colon introduces a list and does not end the negation.
            cuts=re.compile(
                rf"(?P<always>[|→]|{one(table, 'ends')})"
                r"|(?P<naming>[()\[\]{}–]|(?<!following)(?<!folgenden)(?<!suivants)(?<!siguientes)(?<!seguenti)(?<!seguintes):)"
                rf"|(?P<clause>,(?!\s*{one(table, 'onward')})|/|{one(table, 'and')})"
            ),
            verbs=re.compile(one(table, "verbs")),
            unsaid=re.compile(rf"{one(table, 'unsaid')}\s+(?:[\w-]+\s+){{0,2}}$" if table["spaced"] else _NEVER),
            given=re.compile(rf"{one(table, 'given')}[^,:()|–→]*"),
        )
        for table in tables.values()
    ]
    pause = rf"\s*(?:[,.:;!、)|→–✓✗]|/\s|[(\[]+\s*\d|[(\[][^()\[\]]*[)\]]?\W*$|{every('ends').pattern})"
    # A label that ends in a word needs a word boundary; one that ends in a colon does not.
    labels = "|".join(
        rf"(?<!\w)(?:{label})(?:(?<!\w)|(?!\w))" if table["spaced"] else label
        for table in tables.values()
        for label in table["labels"]
    )
    return Words(
        languages=languages,
        yes=every("yes"),
        no=every("no"),
        hedges=every("hedges"),
        refusals=every("refusals"),
        asked=every("asked"),
        rest=every("rest"),
        certainly=every("certainly"),
        but=every("but"),
        ends=every("ends"),
        answers=[
            (says, re.compile(one(table, key)), re.compile(rf"{pause}|\s*{one(table, 'subjects')}"))
            for table in tables.values()
            for says, key in _ANSWER_KEYS
        ],
        nothing=re.compile(rf"\W*(?:{every('nothing').pattern})\W*"),
        verbs=every("verbs"),
        subjects=every("subjects"),
        values=[
            ("No", re.compile(rf"\W*(?:{every('no').pattern}|{every('nothing').pattern}|0(?!\w)|✗(?=\W*$))")),
            ("Yes", re.compile(rf"\W*(?:{every('yes').pattern}|(?:1|present|detected|found|visible)(?!\w)|✓(?=\W*$))")),
        ],
        hedged=re.compile(rf"\W*(?:{every('hedges').pattern})\s*(?:[^\w\s]|$)"),
        of_another=re.compile(rf"\W*\w+(?:[ _-]\w+){{0,2}}\s*[:=|→–]\W*(?:{every('refusals').pattern})\W*"),
        labels=re.compile(labels),
        corrections=every("corrections"),
    )
