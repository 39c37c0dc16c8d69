"""Everything that a page names exists: verbs, options, parameters, files, make targets, environment variables."""

import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest
from typer.main import get_command

from docs_build.parameters import parameter_names
from docs_build.verbs import list_commands
from indus_cot.app import app
from tests.helpers.pages import Page, list_pages
from tests.helpers.paths import ROOT

PAGES = list_pages()
FOLDERS = ("annotation", "bench", "cot_builder", "docs", "docs_build", "eval", "examples", "indus_cot", "install",
           "profiles", "schemas", "tests", "train")  # fmt: skip
MADE_BY_USER = ("profiles/mine.yaml", "bench/results.json", "profiles/NAME.yaml")
"""Files that pages speak of and that no checkout has."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_verbs_and_options_exist(page: Page) -> None:
    faults = [fault for line in find_commands(page) for fault in check_command(line)]
    assert not faults


@each_page
def test_parameters_exist(page: Page) -> None:
    known = parameter_names(ROOT)
    sections = {name for name in known if "." not in name}
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(sorted(sections))})(?:\.[a-z][a-z0-9_]*)+(?![\w/(-])")
    texts = [*page.inline, *page.blocks("bash", "console")]
    named = {found for text in texts for found in pattern.findall(text)}
    # Endings of file names, and attributes of modules in Python commands.
    named = {name for name in named if not re.search(r"\.(csv|html|json|jsonl|md|parquet|py|txt|xml|yaml)$", name)}
    assert not named - known


@each_page
def test_files_exist(page: Page) -> None:
    pattern = re.compile(rf"(?<![\w./$-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w/?")
    texts = [*page.inline, *page.blocks("bash", "console")]
    named = {found for text in texts for found in pattern.findall(text) if found not in MADE_BY_USER}
    assert not {name for name in named if not (ROOT / name).exists()}


@each_page
def test_make_targets_exist(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    texts = [*page.inline, *page.blocks("bash", "console")]
    calls = [found for text in texts for found in re.findall(r"(?:^|\$ )make ([^\n#`]*)", text, re.MULTILINE)]
    named = {word for call in calls for word in call.split() if "=" not in word}
    assert not named - targets


def test_misspelt_commands_are_found() -> None:
    """The checks above fail where they must."""
    assert check_command("indus-cot draft --dryrun") == ["indus-cot draft has no option --dryrun"]
    assert check_command("indus-cot drafts") == ["no verb drafts"]
    assert check_command("indus-cot review pull --priors --only") == ["indus-cot review pull has no option --only"]
    assert check_command("indus-cot --profil x repro") == ["indus-cot has no option --profil"]
    assert not check_command("indus-cot --set a.b=1 review push --priors")


@cache
def command_options() -> dict[tuple[str, ...], dict[str, bool]]:
    """Options of each verb by its path; True for one that takes a value."""
    root = get_command(app)
    commands = [((), root), *list_commands(root)]
    return {
        path: {name: not getattr(item, "is_flag", False) for item in command.params for name in item.opts}
        | {"--help": False}
        for path, command in commands
    }


def find_commands(page: Page) -> Iterator[str]:
    """Calls of `indus-cot` in the inline code and in the blocks of a page."""
    for text in [*page.inline, *page.blocks("bash", "console")]:
        for line in text.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?:^|[\s(;/])indus-cot( [^)#;&|]*)?", line):
                yield f"indus-cot{call.partition('  #')[0]}"


def check_command(line: str) -> list[str]:
    """Faults of one call of `indus-cot`."""
    known = command_options()
    # Quotes may be cut off with a comment; an ellipsis stands for anything.
    words = shlex.split(line.replace("'", "").replace('"', "").replace("…", ""))[1:]
    path: tuple[str, ...] = ()
    position = 0
    while position < len(words):
        word = words[position].rstrip(",.:")
        position += 1
        if word.startswith("-"):
            option = word.partition("=")[0]
            if option not in known[path]:
                return [f"{' '.join(('indus-cot', *path))} has no option {option}"]
            position += known[path][option] and "=" not in word
        elif (*path, word) in known:
            path = (*path, word)
        elif not path and word.islower() and word.isalpha():
            return [f"no verb {word}"]
    return []
