"""The page of all verbs, from the typer app."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from docs_build.markdown import code, described_table, sentence
from indus_cot.app import app

_TYPES = {"int": "INTEGER", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}


def verbs_page() -> str:
    """Every verb with its arguments and options, in the panels of ``indus-cot --help``."""
    root = get_command(app)
    parts = [
        "# Verbs",
        "Generated from the command itself; `indus-cot VERB --help` prints the same. "
        "Options of `indus-cot` come before the verb: `indus-cot --profile smoke --set run.seed=3 repro`.",
        "## indus-cot",
        inspect.cleandoc(root.help or ""),
        _options(root),
    ]
    panel = None
    for path, command in list_commands(root):
        own = getattr(command, "rich_help_panel", None)
        if own and own != panel and len(path) == 1:
            panel = own
            parts.append(f"**{panel}**")
        parts += [f"## {' '.join(path)}", f"```text\n{usage(path, command)}\n```", inspect.cleandoc(command.help or "")]
        if command.params:
            parts.append(_options(command))
    return "\n\n".join(parts) + "\n"


def list_commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with its path, such as ``("review", "push")``, groups before their members."""
    for name, command in group.commands.items():
        yield (*prefix, name), command
        if hasattr(command, "commands"):
            yield from list_commands(command, (*prefix, name))


def usage(path: tuple[str, ...], command: Any) -> str:
    """The line that shows how a verb is called."""
    words = ["indus-cot", *path]
    if any(is_option(parameter) for parameter in command.params):
        words.append("[OPTIONS]")
    for parameter in command.params:
        if not is_option(parameter):
            name = _metavar(parameter) or parameter.name.upper()
            words.append(name if parameter.required else f"[{name}]")
    if hasattr(command, "commands"):
        words.append("VERB")
    return " ".join(words)


def is_option(parameter: Any) -> bool:
    """Whether a parameter of a verb is an option, not an argument."""
    return any(name.startswith("-") for name in parameter.opts)


def _options(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        if is_option(parameter):
            name = ", ".join(code(f"{option} {_value(parameter)}".strip()) for option in parameter.opts)
        else:
            name = code(_metavar(parameter) or parameter.name.upper())
        words = sentence(parameter.help or "")
        if parameter.envvar:
            words += f" Environment variable: `{parameter.envvar}`."
        rows.append((name, _default(parameter), words))
    return described_table(["argument or option", "default", "description"], rows)


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    return _metavar(parameter) or _TYPES.get(getattr(kind, "__name__", ""), "TEXT")


def _metavar(parameter: Any) -> str:
    return re.sub(r"\s+", " ", parameter.metavar or "")


def _default(parameter: Any) -> str:
    default = parameter.default
    if parameter.required:
        return "required"
    if callable(default) or default in (None, "", False, [], ()):
        return ""
    return code(default)
