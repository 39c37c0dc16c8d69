"""What several licences together ask: never less than one of them."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from cot_builder.benchmarks.licences import CONDITIONS, HUB, OTHER, UNKNOWN, hub_licence, of_row, strictest

EVERY = st.sampled_from([*CONDITIONS, OTHER, UNKNOWN])


def _asked(identifier: str) -> set[str]:
    """Conditions; of what is not known everything, and one thing more."""
    every = {"by", "nc", "sa", "nd"}
    return {UNKNOWN: every | {"?", "!"}, OTHER: every | {"?"}}.get(identifier) or set(CONDITIONS.get(identifier, ()))


@given(st.lists(EVERY, min_size=1, max_size=5))
def test_together_they_ask_all_that_one_asks(parts: list[str]) -> None:
    found = strictest(parts)
    assert all(_asked(part) <= _asked(found) for part in parts)
    assert found == strictest(reversed(parts)) == strictest([*parts, *parts])


@given(EVERY, EVERY, EVERY)
def test_the_order_of_joining_is_of_no_matter(one: str, two: str, three: str) -> None:
    assert strictest([strictest([one, two]), three]) == strictest([one, strictest([two, three])])


def test_no_condition_is_lost() -> None:
    assert strictest(["cc-by-sa-4.0", "cc-by-nc-4.0"]) == "cc-by-nc-sa-4.0"
    assert strictest(["cc-by-nc-4.0", "cc-by-nd-4.0"]) == "cc-by-nc-nd-4.0"
    # No licence is of both, and a corpus of both says so.
    assert strictest(["cc-by-nc-sa-4.0", "cc-by-nd-4.0"]) == OTHER
    assert strictest(["cc0-1.0"]) == "cc0-1.0"


def test_a_row_is_bound_by_its_texts_and_its_image() -> None:
    assert of_row("cc-by-4.0", "CC0 1.0") == "cc-by-4.0"
    assert of_row("cc-by-4.0", "CC BY-NC-SA 4.0") == "cc-by-nc-sa-4.0"
    assert of_row("cc-by-sa-4.0", "CC BY-ND 4.0") == "other: cc-by-sa-4.0 and CC BY-ND 4.0"
    assert of_row("cc-by-4.0", "unknown") == "unknown: cc-by-4.0 and unknown"
    for texts, images in product(CONDITIONS, HUB):
        found = of_row(texts, images)
        assert found.startswith(OTHER) or _asked(texts) | _asked(hub_licence(images)) == _asked(found)
