"""Licence, citation, changelog, workflow and templates: valid, and true of the project as it is."""

import hashlib
import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.helpers.paths import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""sha256 of the licence's text as the Apache Software Foundation publishes it."""
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def test_licence_is_verbatim_and_declared() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE
    assert PROJECT["license"] == read_yaml("CITATION.cff")["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_citation_has_its_fields() -> None:
    cited = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] == PROJECT["version"] and cited["authors"] == PROJECT["authors"]
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= paper.keys() and paper["url"].endswith("2605.20682")


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## \[(.+)\]", text, re.MULTILINE)[0] in ("Unreleased", PROJECT["version"])
    kinds = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert PROJECT["version"] in text


def test_workflow_is_pinned_and_only_reads() -> None:
    workflow = read_yaml(".github/workflows/checks.yml")
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["group"]
    jobs = workflow["jobs"].values()
    assert not any("permissions" in job or "strategy" in job for job in jobs)
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", name) for name in used)
    targets = [step["run"].split()[-1] for job in jobs for step in job["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets == ["check", "test"] and all(f"\n{name}: " in makefile for name in targets)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid(path: Any) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) and any(field.get("validations") for field in fields)


def test_hooks_call_what_make_check_calls() -> None:
    (source,) = read_yaml(".pre-commit-config.yaml")["repos"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (recipe,) = re.findall(r"^check: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    for hook in source["hooks"]:
        command = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix")
        assert f"$(BIN)/{command}" in recipe, hook["id"]


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"(?<![\w/])(?:[\w.]+/)+[\w.]+\.\w+", text))
    examples = {name for name in named if "NAME" in name}
    assert len(named) > 12 and not [name for name in named - examples if not (ROOT / name).exists()]
    assert all((ROOT / name).parent.is_dir() for name in examples)
    targets = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"check", "test"} <= targets and all(f"\n{name}: " in makefile for name in targets)
    markers = re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert all(f"`{marker}`" in text for marker in markers)
