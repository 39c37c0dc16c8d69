"""Tests of parameters: params.yaml, profiles, single settings, and messages for invalid values."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cot_builder.params import Params, list_profiles, load_params
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "profiles" / "default.yaml").write_text("# nothing\n")
    return tmp_path


@pytest.mark.parametrize("name", list_profiles(ROOT))
def test_every_profile_loads(name: str) -> None:
    assert isinstance(load_params(name, root=ROOT), Params)


def test_default_profile_is_params_yaml() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert load_params(root=ROOT) == Params.model_validate(written)


def test_setting_overrides_profile_overrides_file(project: Path) -> None:
    (project / "profiles" / "small.yaml").write_text("select: {samples: 11, validation_fraction: 0.3}\n")
    params = load_params("small", ["select.samples=5"], project)
    assert (params.select.samples, params.select.validation_fraction) == (5, 0.3)
    assert params.select.near_duplicate_bits == load_params(root=project).select.near_duplicate_bits


def test_setting_with_nested_key_and_yaml(project: Path) -> None:
    params = load_params(settings=["select.keep_categories=[pcb, zipper]", "pull.sdd.source=a=b.zip"], root=project)
    assert params.select.keep_categories == ["pcb", "zipper"]
    assert params.pull["sdd"].source == "a=b.zip"
    assert params.pull["sdd"].benchmark == "sdd"


@given(st.integers(2, 10**6), st.floats(0, 1))
def test_numbers_are_not_changed(samples: int, fraction: float) -> None:
    params = load_params(
        settings=[f"select.samples={samples}", f"select.validation_fraction={fraction:.17f}"], root=ROOT
    )
    assert params.select.samples == samples
    assert params.select.validation_fraction == pytest.approx(fraction, abs=1e-12)


def test_all_invalid_values_are_listed(project: Path) -> None:
    settings = ["select.samples=0", "patch.jiter=0.1", "teacher.structured=oracle", "compute.workers=two"]
    with pytest.raises(IndusCotError) as caught:
        load_params(settings=settings, root=project)
    message = str(caught.value)
    for key in ("select.samples", "teacher.structured", "compute.workers"):
        assert f"\n  {key}: " in message
    assert "\n  no such parameter: patch.jiter; did you mean patch.jitter?" in message
    assert "'oracle'" in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teacher.modle=x", "no such parameter: teacher.modle; did you mean teacher.model?"),
        ("teachr.model=x", "no such parameter: teachr; did you mean teacher?"),
        ("pull.visa.rolle=train", "no such parameter: pull.visa.rolle; did you mean pull.visa.role?"),
        ("run.qqq=1", "no such parameter: run.qqq"),
    ],
)
def test_unknown_parameter_has_a_suggestion(setting: str, message: str) -> None:
    with pytest.raises(IndusCotError) as caught:
        load_params(settings=[setting], root=ROOT)
    assert str(caught.value).splitlines()[1:] == [f"  {message}"]


def test_empty_setting_is_text_or_null() -> None:
    params = load_params(settings=["teacher.model=", "teacher.base_url=", "budget.usd="], root=ROOT)
    assert (params.teacher.model, params.teacher.base_url, params.budget.usd) == ("", "", None)
    with pytest.raises(IndusCotError, match=r"select\.samples: "):
        load_params(settings=["select.samples="], root=ROOT)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_invalid_seed_is_refused(seed: int) -> None:
    with pytest.raises(IndusCotError, match=r"run\.seed: "):
        load_params(settings=[f"run.seed={seed}"], root=ROOT)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "https://", "http:///v1", "ftp://here/v1", "/v1"])
def test_invalid_url_names_its_parameter(url: str) -> None:
    with pytest.raises(IndusCotError, match=r"teacher\.base_url: must begin with http:// or https://"):
        load_params(settings=[f"teacher.base_url={url}"], root=ROOT)


@pytest.mark.parametrize(
    "place", ["s3", "s3://bucket", "s3://bucket/", "s3://bucket/a/", "s3://bucket/a=b", "gs://bucket/a"]
)
def test_invalid_image_storage(place: str) -> None:
    with pytest.raises(IndusCotError, match=r"review\.images: must be local, or s3://BUCKET/PREFIX"):
        load_params(settings=[f"review.images={place}"], root=ROOT)


def test_url_is_checked_after_expansion(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = "teacher.base_url='${TEST_ENDPOINT}'"
    monkeypatch.setenv("TEST_ENDPOINT", "http://127.0.0.1:8000/v1")
    assert load_params(settings=[setting], root=ROOT).teacher.base_url == "http://127.0.0.1:8000/v1"
    monkeypatch.setenv("TEST_ENDPOINT", "127.0.0.1:8000")
    with pytest.raises(IndusCotError, match=r"teacher\.base_url: must begin"):
        load_params(settings=[setting], root=ROOT)


def test_missing_section_or_key(project: Path) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    del values["patch"], values["select"]["samples"]
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(IndusCotError) as caught:
        load_params(root=project)
    assert "\n  patch: " in str(caught.value)
    assert "\n  select.samples: " in str(caught.value)


@pytest.mark.parametrize("setting", ["samples=3", "select.samples", "select", "="])
def test_malformed_setting_gives_an_example(setting: str) -> None:
    with pytest.raises(IndusCotError, match=r"write section\.key=value, for example --set select\.samples=40"):
        load_params(settings=[setting], root=ROOT)


def test_setting_with_invalid_yaml() -> None:
    with pytest.raises(IndusCotError, match=r"--set select\.samples=\[: the value is not valid YAML"):
        load_params(settings=["select.samples=["], root=ROOT)


def test_unknown_profile_lists_the_profiles(project: Path) -> None:
    with pytest.raises(IndusCotError, match=r"no profile 'papr'; available profiles: default"):
        load_params("papr", root=project)
    with pytest.raises(IndusCotError, match="no profile"):
        load_params("../params", root=project)


def test_missing_or_malformed_file(project: Path, tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"params\.yaml: not found; run indus-cot in the project's folder"):
        load_params(root=tmp_path / "elsewhere")
    (project / "profiles" / "broken.yaml").write_text("a: [1")
    with pytest.raises(IndusCotError, match=r"broken\.yaml: not valid YAML"):
        load_params("broken", root=project)
    (project / "profiles" / "listed.yaml").write_text("- 1\n")
    with pytest.raises(IndusCotError, match=r"listed\.yaml: must contain sections of key: value, but contains a list"):
        load_params("listed", root=project)


def test_environment_variables_are_expanded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PART_ARCHIVES", "/archives")
    monkeypatch.delenv("PART_UNSET", raising=False)
    params = load_params(
        settings=["pull.visa.source='${PART_ARCHIVES}/v.tar'", "pull.sdd.source=['${PART_UNSET:-down}/s.zip']"],
        root=project,
    )
    assert params.pull["visa"].source == "/archives/v.tar"
    assert params.pull["sdd"].source == ["down/s.zip"]
    with pytest.raises(IndusCotError, match="environment variable PART_UNSET is not set"):
        load_params(settings=["pull.visa.source='${PART_UNSET}'"], root=project)


def test_parameters_are_frozen() -> None:
    params = load_params(root=ROOT)
    with pytest.raises(ValidationError):
        params.select.samples = 3


def test_unusable_values_are_refused(project: Path) -> None:
    (project / "profiles" / "latin.yaml").write_bytes(b"review: {project: Pr\xfcfung}\n")
    with pytest.raises(IndusCotError, match=r"latin\.yaml: not UTF-8 .*save the file as UTF-8"):
        load_params("latin", root=project)
    with pytest.raises(IndusCotError, match=r"select\.samples: Input should be greater than or equal to 2"):
        load_params(settings=["select.samples=1"], root=project)
