"""Code keys: a change of code makes stale exactly the stages that depend on it."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from cot_builder.storage.code import PACKAGES, PLUMBING, code_key, files_of
from indus_cot.stages import STAGES
from tests.helpers.paths import ROOT
from tests.helpers.product import copy_product, run_python


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_product(tmp_path_factory.mktemp("tree"))


def keys(tree: Path) -> dict[str, str]:
    """The code keys that `indus-cot params` writes in a tree."""
    run_python(tree, "-m", "indus_cot", "params")
    found: dict[str, str] = json.loads((tree / "data/params.json").read_text())["code"]
    return found


def stale_after(tree: Path, change: dict[str, tuple[str, str]]) -> set[str]:
    """Stages whose key differs after texts of files were replaced; the files are put back."""
    before, kept = keys(tree), {}
    for name, (old, new) in change.items():
        path = tree / name
        kept[path] = path.read_text("utf-8") if path.is_file() else None
        assert old in (kept[path] or ""), f"{name} has no {old!r}"
        path.write_text((kept[path] or "").replace(old, new, 1) if old else (kept[path] or "") + new, "utf-8")
    after = keys(tree)
    for path, text in kept.items():
        if text is None:
            path.unlink()
        else:
            path.write_text(text, "utf-8")
    return {stage for stage in before if before[stage] != after[stage]}


CASES = {
    "read_priors": ("cot_builder/corpus/priors.py", "def read_priors(", "def  read_priors("),
}


def test_stages_of_dvc_and_of_the_table_are_the_same() -> None:
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


def test_every_data_file_of_the_packages_is_in_some_key() -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = [name for name in listed.stdout.split("\n") if name.endswith(".py")]
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules}
    known = {path.as_posix() for path in files_of(*sorted(names))}
    launchers = "train/configs/"
    others = {name for name in listed.stdout.split() if not name.endswith(".py") and not name.startswith(launchers)}
    assert others <= known, f"no module names {sorted(others - known)}"
    assert known - others == {name for name in modules if name.removesuffix(".py").replace("/", ".") not in PLUMBING}


def test_comments_and_blank_lines_do_not_count(tree: Path) -> None:
    path = "cot_builder/corpus/priors.py"
    first = (tree / path).read_text().splitlines()[0]
    assert stale_after(tree, {path: (first, f"# Written for somebody.\n\n{first}")}) == set()
    assert stale_after(tree, {path: (first, first.replace('"""', '"""Another word. ', 1))})


def test_unknown_modules_have_no_key() -> None:
    with pytest.raises(ValueError, match=r"cot_builder\.nothing: no such module"):
        code_key("cot_builder.nothing")


def test_the_key_is_the_same_in_another_python(tree: Path) -> None:
    """Ways of parsing differ between versions of Python; texts do not."""
    script = "from indus_cot.stages import code_keys; import json; print(json.dumps(code_keys()))"
    assert json.loads(run_python(tree, "-c", script)) == keys(tree)
