"""Checks the environment, the parameters and the data, and gives advice for each fault."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

from cot_builder.endpoint.prices import read_price
from cot_builder.endpoint.store import AnswerStore, answer_store_path
from cot_builder.params import Params, load_params
from cot_builder.storage.output import find_damaged_tables, read_manifest
from cot_builder.storage.workspace import Workspace
from indus_cot.names import check_names
from schemas.errors import IndusCotError

MIN_FREE_GIB = 5
MAX_LISTED = 5
MAX_ERROR_CHARACTERS = 200
LOCK = Path("requirements.lock")
SUPPORTED_PYTHONS = ((3, 11), (3, 12), (3, 13))
MODULES = {
    "opencv-python-headless": ("cv2", "cot_builder.storage.images"),
    "pandera": ("pandera.polars",),
    "pillow": ("PIL.Image",),
    "pyyaml": ("yaml",),
    "ray": ("ray.data",),
    "ruamel-yaml-clib": ("_ruamel_yaml",),
    "scikit-learn": ("sklearn.metrics",),
    "trl": ("trl.trainer.sft_trainer", "trl.trainer.grpo_trainer"),
}
"""Modules to import for a distribution, if they are not named like it."""


@dataclass(frozen=True)
class Finding:
    """Result of one check. ``advice`` says what to do about a note or a fault."""

    state: Literal["ok", "note", "fault"]
    subject: str
    detail: str
    advice: str = ""


def run_checks(profile: str, settings: Sequence[str]) -> bool:
    """Run all checks and print the findings; return True if there is no fault."""
    findings = list(_check_environment())
    try:
        params = load_params(profile, settings)
    except IndusCotError as error:
        findings.append(Finding("fault", "parameters", str(error), "correct params.yaml, the profile or --set"))
    else:
        names_finding = _check_parameter_names(params, profile)
        findings += [names_finding, *_check_sources(params)]
        # Only the teacher's module knows whether it uses a server, so its name must be valid first.
        findings += _check_teacher(params, Workspace()) if names_finding.state == "ok" else []
        findings += _check_stages(params, Workspace())
    signs = {"ok": "[green]✓[/green]", "note": "[yellow]·[/yellow]", "fault": "[red]✗[/red]"}
    table = Table(box=None, padding=(0, 1), show_header=False)
    for finding in findings:
        advice = f"\n[bold]→ {finding.advice}[/bold]" if finding.advice else ""
        table.add_row(signs[finding.state], finding.subject, f"{finding.detail}{advice}")
    Console().print(table)
    return all(finding.state != "fault" for finding in findings)


def _check_environment() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield (
        Finding("ok", "python", version)
        if sys.version_info[:2] in SUPPORTED_PYTHONS
        else Finding("fault", "python", version, "use Python 3.11, 3.12 or 3.13: `make PYTHON=python3.13 demo`")
    )
    yield from _check_locked_versions()
    free = shutil.disk_usage(Path()).free / 2**30
    yield (
        Finding("ok", "disk", f"{free:.0f} GiB free")
        if free >= MIN_FREE_GIB
        else Finding("note", "disk", f"{free:.1f} GiB free", "free some space: Real-IAD alone takes tens of GiB")
    )
    yield from _check_requirements("", "dependencies")
    for extra, main, purpose in (
        ("train", "trl", "sft, grpo, and evaluate with a model in this process"),
        ("ray", "ray", "compute.executor: ray"),
    ):
        if _get_installed_version(main):
            yield from _check_requirements(extra, f"extra {extra}")
        else:
            yield Finding("note", f"extra {extra}", f"not installed; only needed for {purpose}")


def _list_requirements(extra: str) -> list[Requirement]:
    """Return the project's direct dependencies in this environment, or those that ``extra`` adds to them."""
    requirements = [Requirement(text) for text in importlib.metadata.requires("indus-cot") or []]
    return [
        requirement
        for requirement in requirements
        if (requirement.marker.evaluate({"extra": extra}) if requirement.marker else not extra)
    ]


def _check_requirements(extra: str, subject: str) -> Iterator[Finding]:
    """Check that each requirement is installed in a compatible version and can be imported."""
    faults = []
    requirements = _list_requirements(extra)
    for requirement in requirements:
        name, version = requirement.name, _get_installed_version(requirement.name)
        if not version:
            faults.append(f"{name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{name} {version} is installed, but {requirement.specifier} is required")
        elif error := _import_error(name):
            faults.append(f"{name} {version} cannot be imported: {error}")
    yield from (Finding("fault", subject, fault, "`make demo` installs compatible versions") for fault in faults)
    if not faults:
        names = (
            ", ".join(f"{item.name} {_get_installed_version(item.name)}" for item in requirements)
            if extra
            else f"all {len(requirements)}"
        )
        yield Finding("ok", subject, f"{names} can be imported")


def _import_error(name: str) -> str:
    """Return why a distribution cannot be imported; empty if it can."""
    name = canonicalize_name(name)
    for module in MODULES.get(name, (name.replace("-", "_"),)):
        try:
            importlib.import_module(module)
        # A broken library may raise any exception; report it.
        except Exception as error:
            text = " ".join(str(error).split())
            return f"{type(error).__name__}: {text[:MAX_ERROR_CHARACTERS]}"
    return ""


def _check_locked_versions() -> Iterator[Finding]:
    if not LOCK.is_file():
        yield Finding("note", "locked versions", f"no {LOCK} here", "run indus-cot in the project's folder")
        return
    locked = [Requirement(line.rstrip("\\")) for line in re.findall(r"^\w.*", LOCK.read_text(), re.MULTILINE)]
    wanted = {
        canonicalize_name(item.name): str(item.specifier).removeprefix("==")
        for item in locked
        if not item.marker or item.marker.evaluate()
    }
    direct = [item.name for item in _list_requirements("")]
    different = {
        name: found
        for name in direct
        if (found := _get_installed_version(name)) != wanted.get(canonicalize_name(name), found)
    }
    if different:
        listed = ", ".join(
            f"{name} {found or 'missing'} (locked {wanted.get(canonicalize_name(name))})"
            for name, found in different.items()
        )
        yield Finding("note", "locked versions", listed, "`make demo` installs the locked versions")
    else:
        yield Finding("ok", "locked versions", f"{len(direct)} direct dependencies as in {LOCK}")


def _get_installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _check_parameter_names(params: Params, profile: str) -> Finding:
    """Check that the data sets, tools and other things named in the parameters exist."""
    try:
        check_names(params)
    except IndusCotError as error:
        return Finding("fault", "parameters", str(error), "correct params.yaml, the profile or --set")
    except ImportError as error:
        return Finding("note", "parameters", f"names were not checked: {error}", "see the dependencies above")
    return Finding("ok", "parameters", f"params.yaml with profile {profile} is valid")


def _check_sources(params: Params) -> Iterator[Finding]:
    for name, source in params.pull.items():
        for location in [source.source] if isinstance(source.source, str) else source.source:
            if location == "synthetic" or re.match(r"(https?|hf)://", location) or Path(location).expanduser().exists():
                yield Finding("ok", f"source {name}", location)
            else:
                advice = f"put the data there, or set pull.{name}.source"
                yield Finding("fault", f"source {name}", f"{location} does not exist", advice)


def _check_teacher(params: Params, workspace: Workspace) -> Iterator[Finding]:
    from cot_builder.teacher.backends import load_backend

    teacher = params.teacher
    if not load_backend(teacher.backend).ASKS:
        return
    # The same default as the client's.
    url = teacher.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    yield Finding("ok", "teacher", f"queries {url} (teacher.base_url)")
    path = answer_store_path(workspace.root)
    if path.exists():
        try:
            answers = AnswerStore(path)
            kept = sum(count for _, _, count in answers.counts())
            answers.close()
        except IndusCotError as error:
            yield Finding("fault", "cached answers", str(error), "`indus-cot cache --salvage`")
        else:
            yield Finding("ok", "cached answers", f"{kept} in {path}")
    if os.environ.get(teacher.api_key_env):
        yield Finding("ok", "teacher", f"the key is in {teacher.api_key_env}")
    else:
        yield Finding(
            "fault",
            "teacher",
            f"{teacher.api_key_env} is not set",
            "set this environment variable to the endpoint's key",
        )
    for model in teacher.models:
        try:
            price = read_price(model)
        except IndusCotError as error:
            yield Finding("fault", "teacher", str(error), "see prices.yaml")
        else:
            yield Finding(
                "ok", "teacher", f"{model}: {price.input:g} USD in, {price.output:g} USD out, per million tokens"
            )


def _check_stages(params: Params, workspace: Workspace) -> Iterator[Finding]:
    folders = {f"pull {name}": workspace.pull(name) for name in params.pull}
    folders |= {
        "select": workspace.select,
        "patch": workspace.patch,
        "prior": workspace.prior,
        "draft": workspace.draft,
        "assemble": workspace.indus_cot,
        "sft": workspace.sft,
        "grpo": workspace.grpo,
    }
    folders |= {
        f"evaluate {name}": workspace.results / name
        for name, source in params.pull.items()
        if source.role == "evaluate"
    }
    for stage, folder in folders.items():
        if not folder.exists():
            yield Finding("note", stage, "has not run", "`indus-cot repro`")
            continue
        try:
            manifest = read_manifest(folder)
            faults = find_damaged_tables(folder, manifest.get("rows", {}))
        except IndusCotError as error:
            faults = [str(error)]
        if faults:
            more = f" and {len(faults) - MAX_LISTED} more" if len(faults) > MAX_LISTED else ""
            yield Finding(
                "fault", stage, f"{'; '.join(faults[:MAX_LISTED])}{more}", f"run it again: `indus-cot {stage}`"
            )
            continue
        counts = ", ".join(
            f"{value} {name.replace('_', ' ')}" for name, value in manifest["counts"].items() if isinstance(value, int)
        )
        left_out = ", ".join(f"{number} {reason}" for reason, number in manifest["left_out"].items())
        without = manifest["counts"]["samples"] - manifest["counts"]["trajectories"] if stage == "draft" else 0
        advice = []
        if without:
            advice.append(f"{without} samples have no trajectory; see reports/failures.csv")
        if others := find_changed_parameters(stage, manifest.get("params", {}), params):
            more = f" and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
            advice.append(
                f"made with other parameters: {', '.join(others[:MAX_LISTED])}{more}; select the profile it was made "
                "with, or run `indus-cot repro`"
            )
        yield Finding(
            "note" if left_out or advice else "ok",
            stage,
            counts + (f"; left out: {left_out}" if left_out else ""),
            "\n→ ".join(advice),
        )


def find_changed_parameters(stage: str, recorded: Mapping[str, Any], params: Params) -> list[str]:
    """Return the parameters in a stage's manifest that differ from the current ones, each with both values.

    Args:
        stage: Name of the stage, followed by that of the data set if there is one: ``select``, ``pull mpdd``.
        recorded: ``params`` of its manifest: fields of the stage's section, whole sections by name, the seed, and
            values derived from others, which are not compared.
        params: The current parameters.
    """
    values = params.model_dump(mode="json")
    verb, _, name = stage.partition(" ")
    own, path = (values["pull"][name], f"pull.{name}") if verb == "pull" else (values.get(verb, {}), verb)
    differences: list[str] = []

    def compare(was: Mapping[str, Any], now: Mapping[str, Any], path: str) -> None:
        for key, value in was.items():
            if key == "seed":
                note(value, params.run.seed, "run.seed")
            elif key not in now:
                continue
            elif isinstance(value, Mapping) and isinstance(now[key], Mapping):
                compare(value, now[key], f"{path}.{key}".strip("."))
            else:
                note(value, now[key], f"{path}.{key}".strip("."))

    def note(was: Any, now: Any, name: str) -> None:
        if was != now:
            differences.append(f"{name} {_format_value(was)} (now {_format_value(now)})")

    sections = {key: value for key, value in recorded.items() if isinstance(value, Mapping) and key not in own}
    compare({key: value for key, value in recorded.items() if key not in sections}, own, path)
    compare(sections, values, "")
    return list(dict.fromkeys(differences))


def _format_value(value: Any) -> str:
    return str(value) if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
