"""Tests of combined licences: no condition is lost."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from cot_builder.benchmarks.licences import (
    CONDITIONS,
    HUB,
    OTHER,
    UNKNOWN,
    combine_licences,
    combine_row_licences,
    to_hub_licence,
)

EVERY = st.sampled_from([*CONDITIONS, OTHER, UNKNOWN])


def _asked(identifier: str) -> set[str]:
    """Conditions of a licence. Unknown licences have all conditions and additional ones."""
    every = {"by", "nc", "sa", "nd"}
    return {UNKNOWN: every | {"?", "!"}, OTHER: every | {"?"}}.get(identifier) or set(CONDITIONS.get(identifier, ()))


@given(st.lists(EVERY, min_size=1, max_size=5))
def test_combined_licence_has_all_conditions(parts: list[str]) -> None:
    found = combine_licences(parts)
    assert all(_asked(part) <= _asked(found) for part in parts)
    assert found == combine_licences(reversed(parts)) == combine_licences([*parts, *parts])


@given(EVERY, EVERY, EVERY)
def test_combining_is_associative(one: str, two: str, three: str) -> None:
    assert combine_licences([combine_licences([one, two]), three]) == combine_licences(
        [one, combine_licences([two, three])]
    )


def test_combinations_of_known_licences() -> None:
    assert combine_licences(["cc-by-sa-4.0", "cc-by-nc-4.0"]) == "cc-by-nc-sa-4.0"
    assert combine_licences(["cc-by-nc-4.0", "cc-by-nd-4.0"]) == "cc-by-nc-nd-4.0"
    # No licence has both conditions.
    assert combine_licences(["cc-by-nc-sa-4.0", "cc-by-nd-4.0"]) == OTHER
    assert combine_licences(["cc0-1.0"]) == "cc0-1.0"


def test_licence_of_a_row() -> None:
    assert combine_row_licences("cc-by-4.0", "CC0 1.0") == "cc-by-4.0"
    assert combine_row_licences("cc-by-4.0", "CC BY-NC-SA 4.0") == "cc-by-nc-sa-4.0"
    assert combine_row_licences("cc-by-sa-4.0", "CC BY-ND 4.0") == "other: cc-by-sa-4.0 and CC BY-ND 4.0"
    assert combine_row_licences("cc-by-4.0", "unknown") == "unknown: cc-by-4.0 and unknown"
    for texts, images in product(CONDITIONS, HUB):
        found = combine_row_licences(texts, images)
        assert found.startswith(OTHER) or _asked(texts) | _asked(to_hub_licence(images)) == _asked(found)
