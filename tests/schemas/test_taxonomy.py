"""Every published label maps; similarity behaves as a measure on a tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import taxonomy
from schemas.errors import IndusCotError

types = st.sampled_from(taxonomy.leaves())


def test_an_unknown_type_is_an_error_that_names_it() -> None:
    for question in (taxonomy.family, taxonomy.describe, taxonomy.iso8785):
        with pytest.raises(IndusCotError, match="unknown defect type 'scratches'"):
            question("scratches")


def test_names_read_as_words_and_have_a_line_each() -> None:
    for name in taxonomy.leaves():
        assert name.replace("_", "").isalpha()
        assert name == name.lower()
        assert taxonomy.describe(name).endswith(".")
        assert "\n" not in taxonomy.describe(name)
        assert taxonomy.family(name) in taxonomy.families()


@given(types, types)
def test_similarity_is_symmetric_and_in_range(a: str, b: str) -> None:
    assert taxonomy.similarity(a, b) == taxonomy.similarity(b, a)
    assert 0.0 <= taxonomy.similarity(a, b) <= 1.0


@given(types, types)
def test_only_equal_types_are_fully_alike(a: str, b: str) -> None:
    assert (taxonomy.similarity(a, b) == 1.0) == (a == b)


@given(types, types, types)
def test_kin_are_never_less_alike_than_strangers(a: str, kin: str, stranger: str) -> None:
    if taxonomy.family(a) == taxonomy.family(kin) != taxonomy.family(stranger):
        assert taxonomy.similarity(a, kin) > taxonomy.similarity(a, stranger)


def test_unspecified_earns_less_than_the_right_family_and_more_than_a_wrong_one() -> None:
    right, wrong = taxonomy.similarity("scratch", "dent"), taxonomy.similarity("scratch", "missing_part")
    assert wrong == 0.0 < taxonomy.similarity("scratch", "unspecified") < right
