"""Tests of the defect types and of their similarity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import taxonomy
from schemas.errors import IndusCotError

types = st.sampled_from(taxonomy.leaves())


def test_unknown_type_is_named_in_the_error() -> None:
    for lookup in (taxonomy.family, taxonomy.describe, taxonomy.iso8785):
        with pytest.raises(IndusCotError, match="unknown defect type 'scratches'"):
            lookup("scratches")


def test_types_have_plain_names_and_descriptions() -> None:
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
def test_only_equal_types_have_similarity_one(a: str, b: str) -> None:
    assert (taxonomy.similarity(a, b) == 1.0) == (a == b)


@given(types, types, types)
def test_similarity_is_higher_within_a_family(a: str, relative: str, stranger: str) -> None:
    if taxonomy.family(a) == taxonomy.family(relative) != taxonomy.family(stranger):
        assert taxonomy.similarity(a, relative) > taxonomy.similarity(a, stranger)


def test_unspecified_scores_between_right_and_wrong_family() -> None:
    right, wrong = taxonomy.similarity("scratch", "dent"), taxonomy.similarity("scratch", "missing_part")
    assert wrong == 0.0 < taxonomy.similarity("scratch", "unspecified") < right
