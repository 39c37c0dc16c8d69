"""Small helpers that write Markdown."""

import ast
import inspect
import re
from collections.abc import Iterable, Sequence
from functools import cache
from textwrap import dedent

_ROLE = re.compile(r":\w+:`~?(?:([^`<]+?)\s*<([^`>]+)>|([^`]+))`")


def convert_docstring(text: str) -> str:
    """Convert the few reStructuredText forms of this project's docstrings to Markdown.

    ``:func:`name``` becomes inline code, double backticks become single ones, and ``Layout::`` with an indented block
    becomes a code block.
    """
    text = _ROLE.sub(lambda found: f"`{(found[1] or found[2] or found[3]).rpartition('.')[2]}`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::(\n\s*\n(?= {4}))", r":\1", text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table; line breaks and bars in cells are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def described_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table whose last column holds sentences; the style sheet keeps that column wide."""
    return f'<div class="described" markdown>\n\n{table(header, rows)}\n</div>'


def code(value: object) -> str:
    """Inline code; empty for an empty text."""
    text = str(value)
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """The text on one line with a full stop, and with a capital first letter unless it begins with a name or value."""
    text = " ".join(text.split())
    if not text:
        return ""
    if re.match(r"[a-z]+(,| |$)", text):
        text = text[0].upper() + text[1:]
    return text + ("" if text[-1] in ".!?:" else ".")


def first_paragraph(text: str | None) -> str:
    """First paragraph of a docstring as Markdown on one line."""
    return " ".join(convert_docstring(inspect.cleandoc(text or "")).split("\n\n")[0].split())


@cache
def attribute_docs(record: type) -> dict[str, str]:
    """Docstrings of the attributes of a class, by name, with those of its bases: Python drops them at run time."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.partition(".")[0] in ("builtins", "pydantic", "abc", "typing"):
            continue
        body = ast.parse(dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = " ".join(convert_docstring(text.value.value).split())
    return found


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
