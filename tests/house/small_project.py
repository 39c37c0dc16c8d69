"""A small project in the working folder, for processes that tests of this folder start in a product copy."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from indus_cot.app import main
from tests.helpers import small_corpus
from tests.house.product_copy import RESULT_FILE


def run(*arguments: str) -> str:
    """Run `indus-cot` in the working folder; return its output including errors."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        main(list(arguments))
    return printed.getvalue()


def settings(**values: object) -> Iterator[str]:
    """Yield the command line options that set ``section__key=value``."""
    for name, value in values.items():
        yield from ("--set", f"{name.replace('__', '.', 1)}={value}")


def make_project() -> None:
    """Build the small corpus in the working folder, and name its sets in params.yaml."""
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    values["pull"] = {
        "mine": {"benchmark": "folder", "source": "mine/parts.csv", "role": "train"},
        "held_out": {"benchmark": "folder", "source": "held_out/parts.csv", "role": "evaluate"},
    }
    values["evaluate"] |= {"draws": 20, "limit": 1, "policy": "endpoint", "model": "gpt-4.1"}
    values["teacher"] |= {"backend": "endpoint", "model": "gpt-4.1"}
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    os.environ["OPENAI_API_KEY"] = "sk-not-a-real-key-0123456789"
    small_corpus.build(Path.cwd())


def write_result(found: Any) -> None:
    """Write results as JSON for the test that started this process."""
    Path(RESULT_FILE).write_text(json.dumps(found), encoding="utf-8")
