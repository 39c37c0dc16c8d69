"""Code keys: a code change makes exactly the dependent stages stale."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cot_builder.storage import code
from cot_builder.storage.code import EXCLUDED_MODULES, PACKAGES, compute_code_key, list_hashed_files
from indus_cot.stages import STAGES, code_keys
from tests.helpers.paths import ROOT
from tests.house.product_copy import copy_with, run_command


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with(tmp_path_factory.mktemp("product"), {})


def read_keys(tree: Path) -> dict[str, str]:
    """The code key of each stage of the product in ``tree``."""
    # In this process: a command imports for seconds what it does not need here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "BASE", tree)
        code.clear_caches()
        found = code_keys()
    code.clear_caches()
    return found


@contextmanager
def change_file(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace one text in a file, or create the file if ``old`` is empty; undo it afterwards."""
    before = path.read_text("utf-8") if path.is_file() else ""
    assert before.count(old) == 1 if old else not before, f"{path}: {old!r}"
    path.write_text(before.replace(old, new) if old else new, "utf-8")
    try:
        yield
    finally:
        if old:
            path.write_text(before, "utf-8")
        else:
            path.unlink()


@pytest.fixture(scope="module")
def before(tree: Path) -> dict[str, str]:
    return read_keys(tree)


def find_stale_stages(tree: Path, before: dict[str, str], name: str, old: str, new: str) -> set[str]:
    """Return the stages that a change of one file makes stale."""
    with change_file(tree / name, old, new):
        after = read_keys(tree)
    return {stage for stage in STAGES if before[stage] != after[stage]}


READ_BY_INSPECTIONS = {"prior", "draft", "assemble", "sft", "grpo", "evaluate", "report"}
CASES = {
    "read_priors": (
        "cot_builder/corpus/priors.py",
        "def read_priors(workspace",
        "def read_priors( workspace",
        {"prior", "draft", "assemble", "grpo", "evaluate"},
    ),
    "row_id": (
        "cot_builder/corpus/writing.py",
        "def row_id(",
        "def row_id (",
        {"assemble", "sft", "grpo"},
    ),
    "a tool's docstring": (
        "cot_builder/inspection/tools/crop.py",
        "Look at a region of the image, small ones enlarged.",
        "Look at a region of the image.",
        READ_BY_INSPECTIONS,
    ),
    "a prompt": ("cot_builder/teacher/prompts/reader.md", "", "", {"prior", "draft"}),
    "the taxonomy": ("schemas/taxonomy.yaml", "", "", READ_BY_INSPECTIONS | {"pull", "select"}),
    "the model card's template": ("train/templates/model_card.md.jinja", "", "", {"sft", "grpo"}),
    "the data set card's template": ("cot_builder/publishing/templates/dataset_card.md.jinja", "", "", set()),
    "a template of the report": ("eval/report/templates/report.html.jinja", "", "", {"report"}),
    "an endpoint's client": ("cot_builder/endpoint/throttle.py", "", "", {"prior", "draft", "evaluate"}),
    "a verb": ("indus_cot/pipeline.py", "", "", set()),
    "a parameter": ("cot_builder/params.py", "", "", set()),
}
"""By case: file, old text, new text (both empty: a line is added), and the stages that become stale."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_change_makes_dependents_stale(case: str, tree: Path, before: dict[str, str]) -> None:
    name, old, new, due = CASES[case]
    if not old:
        old = (tree / name).read_text("utf-8")
        new = f"{old}ANOTHER = 1\n"
    assert find_stale_stages(tree, before, name, old, new) == due


@pytest.mark.slow
def test_params_writes_the_keys(tree: Path, before: dict[str, str]) -> None:
    run_command(tree, "params")
    assert json.loads((tree / "data/params.json").read_text())["code"] == before


# A backend is one file that words priors and drafts, so `prior` depends on the gates too.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "due"),
    [
        ("cot_builder/inspection/tools/another.py", READ_BY_INSPECTIONS),
        ("cot_builder/teacher/gates/another.py", {"prior", "draft", "report"}),
        ("cot_builder/benchmarks/another.py", {"pull", "select", "evaluate"}),
        ("cot_builder/benchmarks/forms/another.py", {"pull", "select", "evaluate"}),
        ("cot_builder/teacher/backends/another.py", {"prior", "draft"}),
        ("train/rewards/another.py", {"grpo", "report"}),
        ("eval/metrics/another.py", {"evaluate", "report"}),
    ],
)
def test_new_table_file_makes_stages_stale(name: str, due: set[str], tree: Path, before: dict[str, str]) -> None:
    assert find_stale_stages(tree, before, name, "", '"""Nothing yet."""\n') == due


@pytest.mark.slow
def test_dvc_reruns_stage_with_changed_key(tree: Path) -> None:
    """DVC reruns `pull`, which has no dependencies, after a change of its own code but not of other code."""

    def is_stale() -> bool:
        run_command(tree, "params")
        status = [sys.executable, "-P", "-m", "dvc", "status", "pull@mvtec_ad"]
        done = subprocess.run(status, cwd=tree, capture_output=True, text=True, check=True)
        return "code.pull" in done.stdout

    small = ["synthetic.categories=2", "synthetic.parts=4", "synthetic.size=128"]
    settings = [part for setting in small for part in ("--set", setting)]
    run_command(tree, *settings, "params")
    run_command(tree, *settings, "repro", "pull@mvtec_ad")
    assert not is_stale()
    with change_file(tree / "cot_builder/teacher/another.py", "", "ANOTHER = 1\n"):
        assert not is_stale()
    path = tree / "cot_builder/stages/pull.py"
    with change_file(path, path.read_text("utf-8"), path.read_text("utf-8") + "ANOTHER = 1\n"):
        assert is_stale()


def test_table_lists_all_dvc_stages() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(stages) == {*STAGES, "params", "review", "prior_review"}
    for name in STAGES:
        listed = stages[name].get("do", stages[name])
        (watched,) = listed["params"][0].values()
        assert f"code.{name}" in watched
        code = [item for item in listed.get("deps", []) if item.partition("/")[0] in PACKAGES or item.endswith(".py")]
        assert not code, f"{name} names code: {code}"


def test_dvc_names_no_data_set() -> None:
    text = "\n".join(line for line in (ROOT / "dvc.yaml").read_text().splitlines() if not line.lstrip().startswith("#"))
    sets = yaml.safe_load((ROOT / "params.yaml").read_text())["pull"]
    assert not [name for name in sets if name in text]


def test_code_keys_cover_all_package_files() -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names if name[-3:] == ".py"
    }
    known = {path.as_posix() for path in list_hashed_files(*sorted(modules - set(EXCLUDED_MODULES)))}
    # Exempt: launch configurations, which users pass to `accelerate`, and empty `py.typed` markers.
    apart = {name for name in names if name.startswith("train/configs/") or name.endswith("py.typed")}
    assert set(names) - apart - known == {f"{name.replace('.', '/')}.py" for name in EXCLUDED_MODULES}


@pytest.mark.slow
def test_comments_change_no_key(tree: Path, before: dict[str, str]) -> None:
    name = "cot_builder/corpus/priors.py"
    first = (tree / name).read_text().splitlines()[0]
    assert find_stale_stages(tree, before, name, first, f"# Written for somebody.\n\n{first}") == set()
    assert find_stale_stages(tree, before, name, first, first.replace('"""', '"""Another word. ', 1))


def test_unknown_modules_have_no_key() -> None:
    with pytest.raises(ValueError, match=r"cot_builder\.nothing: no such module"):
        compute_code_key("cot_builder.nothing")
