"""Renders HTML pages from the templates of this package, with style and scripts inlined."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render(template: str, scripts: Sequence[str], context: Mapping[str, Any], *, loads_scripts: bool = False) -> str:
    """Render a template as a page, with its style and ``scripts`` inlined.

    The page's content security policy allows only data: images and these scripts, so that text of a model cannot run
    code. With ``loads_scripts``, it also allows scripts that lie next to the page.
    """
    sources = [_read_asset(name) for name in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in sources)
    # For a page opened from a file, 'self' does not cover the files next to it.
    allowed = " ".join(filter(None, [hashes, "'self' file:" if loads_scripts else ""])) or "'none'"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            style=Markup(_read_asset("page.css")),
            scripts=[Markup(source) for source in sources],
            **context,
        )
    )


def _read_asset(name: str) -> str:
    return resources.files("eval.report").joinpath("templates", name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eval.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _format_number,
        "share": _format_share,
        "plural": format_count,
        "words": lambda name: str(name).replace("_", " "),
    }
    return environment


def _format_number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{int(value):,}"


def format_count(count: int, one: str, many: str = "") -> str:
    """Format a count with its noun: ``1 call``, ``2 calls``; ``many`` is an irregular plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _format_share(part: float, whole: float) -> str:
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 10 and percent != int(percent) else f"{percent:.0f} %"
