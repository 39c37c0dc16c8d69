"""Checks the environment, the parameters and the data, and says what to do about each fault."""

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from cot_builder.endpoint.prices import read_price
from cot_builder.endpoint.store import Answers, store
from cot_builder.params import Params, load_params
from cot_builder.storage.output import damaged_tables, read_manifest
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

FREE_GIB = 5
SHOWN = 5
LOCK = Path("requirements.lock")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``advice`` says what to do where it is not well."""

    state: Literal["ok", "note", "fault"]
    subject: str
    detail: str
    advice: str = ""


def doctor(profile: str, settings: Sequence[str]) -> bool:
    """Print every finding; True where there is no fault."""
    findings = list(_environment())
    try:
        params = load_params(profile, settings)
    except IndusCotError as error:
        findings.append(Finding("fault", "parameters", str(error), "correct params.yaml, the profile or --set"))
    else:
        findings.append(Finding("ok", "parameters", f"params.yaml with profile {profile} fits"))
        findings += [*_sources(params), *_teacher(params, Workspace()), *_stages(params, Workspace())]
    signs = {"ok": "[green]✓[/green]", "note": "[yellow]·[/yellow]", "fault": "[red]✗[/red]"}
    table = Table(box=None, padding=(0, 1), show_header=False)
    for finding in findings:
        advice = f"\n[bold]→ {finding.advice}[/bold]" if finding.advice else ""
        table.add_row(signs[finding.state], finding.subject, f"{finding.detail}{advice}")
    Console().print(table)
    return all(finding.state != "fault" for finding in findings)


def _environment() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield (
        Finding("ok", "python", version)
        if sys.version_info >= (3, 11)
        else Finding("fault", "python", version, "use Python 3.11 or newer")
    )
    yield from _versions()
    free = shutil.disk_usage(Path()).free / 2**30
    yield (
        Finding("ok", "disk", f"{free:.0f} GiB free")
        if free >= FREE_GIB
        else Finding("note", "disk", f"{free:.1f} GiB free", "Real-IAD alone takes tens of GiB; free some space")
    )
    for extra, module, what in (
        ("train", "trl", "sft, grpo, and evaluate with a model in this process"),
        ("ray", "ray", "compute.executor: ray"),
    ):
        found = f"{module} {version}" if (version := _installed(module)) else f"not installed; for {what} alone"
        yield Finding("ok" if version else "note", f"extra {extra}", found)


def _versions() -> Iterator[Finding]:
    if not LOCK.is_file():
        yield Finding("note", "locked versions", f"no {LOCK} here", "run indus-cot in the project's folder")
        return
    wanted = dict(
        re.findall(r"^([\w.-]+)==([^\s;]+)(?![^\n]*python_full_version >= '3.12')", LOCK.read_text(), re.MULTILINE)
    )
    direct = [
        re.split(r"[^\w.-]", text)[0]
        for text in importlib.metadata.requires("indus-cot") or []
        if "extra ==" not in text
    ]
    off = {name: found for name in direct if (found := _installed(name)) != wanted.get(name.replace("_", "-"), found)}
    if off:
        listed = ", ".join(
            f"{name} {found or 'missing'} (locked {wanted.get(name.replace('_', '-'))})" for name, found in off.items()
        )
        yield Finding("note", "locked versions", listed, "`make demo` installs the locked ones")
    else:
        yield Finding("ok", "locked versions", f"{len(direct)} direct dependencies as in {LOCK}")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _sources(params: Params) -> Iterator[Finding]:
    for name, source in params.pull.items():
        for place in [source.source] if isinstance(source.source, str) else source.source:
            if place == "synthetic" or re.match(r"(https?|hf)://", place) or Path(place).expanduser().exists():
                yield Finding("ok", f"source {name}", place)
            else:
                advice = f"put the data there, or set pull.{name}.source"
                yield Finding("fault", f"source {name}", f"{place} does not exist", advice)


def _teacher(params: Params, workspace: Workspace) -> Iterator[Finding]:
    teacher = params.teacher
    if teacher.backend == "offline":
        return
    # As the client chooses where none is given.
    url = teacher.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    yield Finding("ok", "teacher", f"asks {url} (teacher.base_url)")
    path = store(workspace.root)
    if path.exists():
        try:
            answers = Answers(path)
            kept = sum(count for _, _, count in answers.counts())
            answers.close()
        except IndusCotError as error:
            yield Finding("fault", "kept answers", str(error), "`indus-cot cache --salvage`")
        else:
            yield Finding("ok", "kept answers", f"{kept} in {path}")
    if os.environ.get(teacher.api_key_env):
        yield Finding("ok", "teacher", f"the key is in {teacher.api_key_env}")
    else:
        yield Finding("fault", "teacher", f"{teacher.api_key_env} is not set", "put the endpoint's key there")
    for model in teacher.models:
        try:
            price = read_price(model)
        except IndusCotError as error:
            yield Finding("fault", "teacher", str(error), "see prices.yaml")
        else:
            yield Finding(
                "ok", "teacher", f"{model}: {price.input:g} USD in, {price.output:g} USD out, a million tokens"
            )


def _stages(params: Params, workspace: Workspace) -> Iterator[Finding]:
    folders = {f"pull {name}": workspace.pull(name) for name in params.pull}
    folders |= {
        "select": workspace.select,
        "patch": workspace.patch,
        "prior": workspace.prior,
        "draft": workspace.draft,
        "assemble": workspace.indus_cot,
    }
    for stage, folder in folders.items():
        if not folder.exists():
            yield Finding("note", stage, "has not run", "`indus-cot repro`")
            continue
        try:
            manifest = read_manifest(folder)
            faults = damaged_tables(folder, manifest.get("rows", {}))
        except IndusCotError as error:
            faults = [str(error)]
        if faults:
            more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            yield Finding("fault", stage, f"{'; '.join(faults[:SHOWN])}{more}", f"run it again: `indus-cot {stage}`")
            continue
        counts = ", ".join(
            f"{value} {name.replace('_', ' ')}" for name, value in manifest["counts"].items() if isinstance(value, int)
        )
        left_out = ", ".join(f"{number} {reason}" for reason, number in manifest["left_out"].items())
        without = manifest["counts"]["samples"] - manifest["counts"]["trajectories"] if stage == "draft" else 0
        yield Finding(
            "note" if left_out or without else "ok",
            stage,
            counts + (f"; left out: {left_out}" if left_out else ""),
            f"{without} samples have no trajectory: reports/failures.csv says why" if without else "",
        )
