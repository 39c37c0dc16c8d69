"""The endpoint teacher's prompts: Jinja templates in files, versioned by their content."""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), undefined=jinja2.StrictUndefined, trim_blocks=False, autoescape=False
    )


@cache
def _read(name: str) -> str:
    return (resources.files("cot_builder.teacher") / "prompts" / f"{name}.md").read_text(encoding="utf-8")


def fill(name: str, **values: Any) -> str:
    """Render the prompt ``prompts/<name>.md`` with ``values``."""
    return _environment().get_template(name).render(**values).strip()


@cache
def prompt_version() -> str:
    """Return a hash over all prompts: a changed word changes the version."""
    folder = resources.files("cot_builder.teacher") / "prompts"
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        digest.update(f"{file.name}\0{file.read_text(encoding='utf-8')}\0".encode())
    return digest.hexdigest()[:12]
