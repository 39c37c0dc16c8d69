"""Checks of `indus-cot doctor`: libraries, versions and names."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from indus_cot import doctor
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.slow
def test_unloadable_library_is_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "krippendorff.py").write_text("raise ImportError('libx.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "krippendorff", raising=False)
    assert not doctor.run_checks("default", [])
    shown = capsys.readouterr().out
    assert "cannot be imported: ImportError: libx.so.1: cannot open shared object file" in shown
    assert "✗  dependencies" in shown and "`make demo` installs compatible versions" in shown


@pytest.mark.slow
def test_incompatible_version_is_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = tmp_path / "opencv_python_headless-4.12.0.88.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python-headless\nVersion: 4.12.0.88\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not doctor.run_checks("default", [])
    assert "opencv-python-headless 4.12.0.88 is installed, but >=4.13 is required" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("version", "sound"), [((3, 10, 13), False), ((3, 11, 7), True), ((3, 14, 0), False)])
def test_python_versions(
    version: tuple[int, int, int], sound: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version))
    assert doctor.run_checks("default", []) == sound
    assert ("use Python 3.11, 3.12 or 3.13" in capsys.readouterr().out) != sound


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("pull.visa.benchmark=viza", "pull.visa.benchmark: no 'viza'"),
        ("teacher.backend=endpont", "did you mean endpoint?"),
    ],
)
def test_unknown_names_are_faults(setting: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not doctor.run_checks("default", [setting])
    shown = capsys.readouterr().out
    assert advice in shown and "correct params.yaml" in shown
