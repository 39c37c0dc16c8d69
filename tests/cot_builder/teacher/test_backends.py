"""The teacher backends: their names and required functions."""

import pytest

from cot_builder.params import load_params
from cot_builder.teacher.backends import list_backends, load_backend
from indus_cot.names import check_names
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT


def test_backends_define_required_functions() -> None:
    assert list_backends() == ["endpoint", "offline"]
    for name in list_backends():
        backend = load_backend(name)
        assert callable(backend.draft_samples) and callable(backend.word_priors)
        assert hasattr(backend, "estimate_drafts") == hasattr(backend, "estimate_priors") == backend.ASKS


def test_unknown_backend_is_reported() -> None:
    params = load_params(settings=["teacher.backend=oracle"], root=ROOT)
    message = r"^teacher\.backend: no 'oracle'; there are endpoint, offline"
    with pytest.raises(IndusCotError, match=message):
        check_names(params)
    with pytest.raises(IndusCotError, match=message):
        load_backend("oracle")
    with pytest.raises(IndusCotError, match=r"did you mean offline\?"):
        load_backend("ofline")
