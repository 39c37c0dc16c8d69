"""`indus-cot init` from a checkout and from an installed wheel."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT, new_project, run

SETTINGS = (
    "synthetic.categories=2", "synthetic.parts=4", "synthetic.views=1", "synthetic.size=128", "select.samples=8",
    "sft.steps=1", "grpo.steps=1", "grpo.group=2", "grpo.batch=2", "grpo.max_completion=16",
)  # fmt: skip


UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # Build from a copy, because building leaves files beside the sources.
    build = [UV, "build", "--wheel", "--quiet", "--out-dir", folder, new_project(folder / "sources")]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """An environment with the wheel, which uses the libraries of the tests' environment."""
    environment = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    subprocess.run([UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel], check=True)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # This adds only the libraries: a .pth file of the added folder, such as that of the checkout, is not read.
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


@pytest.mark.slow
def test_wheel_has_licence_and_type_markers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    packages = ("annotation", "cot_builder", "eval", "indus_cot", "schemas", "train")
    assert all(f"{package}/py.typed" in names for package in packages)
    assert not [name for name in names if name.startswith(("tests/", "examples/", "bench/"))]


def test_init_keeps_existing_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    done = run(tmp_path, "init", "mine", settings=())
    assert done.returncode == 0, done.stderr
    names = {
        "params.yaml",
        "dvc.yaml",
        "prices.yaml",
        ".gitignore",
        ".dvcignore",
        ".dvc/config",
        "profiles/default.yaml",
    }
    assert all((folder / name).is_file() and name in done.stdout for name in names)
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert (folder / "README.md").read_text() == "mine" and "README.md" not in done.stdout
    again = run(tmp_path, "init", "mine", settings=())
    assert again.returncode == 1 and "it is a project already" in again.stderr


@pytest.mark.parametrize(("name", "message"), [("file", "this is a file"), ("taken", "dvc.yaml already exists there")])
def test_init_refuses_to_overwrite(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "dvc.yaml").write_text("mine")
    done = run(tmp_path, "init", name, settings=())
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "taken" / "dvc.yaml").read_text() == "mine"
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["dvc.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_init_works_in_target_folder(installer: str, wheel: Path, tmp_path: Path) -> None:
    """`pip install --target` records paths that differ from those it writes to."""
    target, project = tmp_path / "target", tmp_path / "project"
    pip = [sys.executable, "-m", "pip"] if installer == "pip" else [UV, "pip"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "indus_cot", "init", project],
        cwd=tmp_path, env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(target)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (project / "profiles/default.yaml").is_file()


@pytest.mark.slow
def test_project_from_wheel_runs(installed: Path, tmp_path: Path) -> None:
    """Run outside the checkout, without git, beside user folders named like packages of this project."""
    command = installed / "bin/indus-cot"
    environment = {**os.environ, **ENVIRONMENT, "HF_DATASETS_CACHE": str(tmp_path / "hf")}

    def call(*arguments: str, folder: Path) -> str:
        done = subprocess.run(
            [command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    project = tmp_path / "eigene Prüfung"
    call("init", project.name, folder=tmp_path)
    for name in ("train", "eval", "schemas"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text("raise ImportError('the user\\'s own package')\n")
    values = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    values["pull"] = {"parts": {"benchmark": "mpdd", "source": "synthetic", "role": "train"}}
    (project / "params.yaml").write_text(yaml.safe_dump(values), "utf-8")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    printed = call(*settings, "repro", folder=project)
    assert "nothing was evaluated" in printed
    page = (project / "reports/index.html").read_text("utf-8")
    assert "Nothing was evaluated: no set of <code>pull</code>" in page
    assert (project / "models/grpo/manifest.json").is_file()
    where = "import indus_cot, train, eval; print(indus_cot.__file__, train.__file__, eval.__file__)"
    shown = subprocess.run(
        [installed / "bin/python", "-P", "-c", where], cwd=project, capture_output=True, text=True, check=False
    )
    assert shown.stdout.count(str(installed)) == 3, shown.stderr
    assert "didn't change, skipping" in call(*settings, "repro", folder=project)
