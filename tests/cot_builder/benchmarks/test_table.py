"""Tests of the table of data sets, and of the settings of `pull` that each supports."""

import pytest

from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.params import load_params
from indus_cot.names import check_names
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT

MINE = "pull.mine={benchmark: folder, source: mine, role: train, licence: CC BY 4.0, redistribution: allowed}"


def check(setting: str) -> None:
    check_names(load_params(settings=[setting], root=ROOT))


def test_every_data_set_is_one_module() -> None:
    names = ["dtd", "folder", "mpdd", "mvtec_ad", "real_iad", "sdd", "visa"]
    assert list(load_benchmarks()) == names
    assert [module.__name__ for module in load_benchmarks().values()] == [f"cot_builder.benchmarks.{n}" for n in names]


@pytest.mark.parametrize("setting", ["pull.real_iad.resolution='512'", MINE, "pull.visa.resolution='1024'"])
def test_supported_settings_are_accepted(setting: str) -> None:
    check(setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pull.visa.benchmark=viza", "pull.visa.benchmark: no 'viza'; there are dtd, folder, mpdd, mvtec_ad, real_iad, "
         "sdd, visa; did you mean visa?"),
        ("pull.visa.resolution='512'", "pull.visa: resolution is for real_iad; visa has one only"),
        ("pull.visa.licence=MIT", "pull.visa: licence is for folder; visa has its own"),
        ("pull.dtd.attribution=Me", "pull.dtd: attribution is for folder; dtd has its own"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_rejected(setting: str, message: str) -> None:
    with pytest.raises(IndusCotError) as caught:
        check(setting)
    assert str(caught.value) == message


def test_redistribution_needs_a_licence() -> None:
    with pytest.raises(IndusCotError, match="redistribution is set without a licence that grants it; set licence too"):
        check("pull.mine={benchmark: folder, source: mine, role: train, redistribution: allowed}")


def test_paths_are_rejected_as_names() -> None:
    with pytest.raises(IndusCotError, match=r"pull\.visa\.benchmark: "):
        check("pull.visa.benchmark=../visa")
