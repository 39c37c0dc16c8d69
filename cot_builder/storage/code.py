"""The code key of a module: one hash of all code and text of this project that its result depends on.

DVC stages, kept evaluations and `data/publish` use it, so that a change of code makes stale what depends on it and
nothing else.
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

BASE = Path(__file__).parents[2]
"""The folder that holds the project's packages: a checkout, or `site-packages`."""
PACKAGES = ("schemas", "cot_builder", "annotation", "train", "eval", "indus_cot")
EXCLUDED_MODULES = ("cot_builder.params", "cot_builder.progress", "schemas.errors")
"""Left out: they carry values, progress and messages. The parameters in force are compared by value instead."""


_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
"""What a file's or a folder's name looks like."""


def compute_code_key(*modules: str, by_value: Collection[str] = ()) -> str:
    """sha256 over what the modules import within the project, lazy imports included, and the files that these read.

    Counted are docstrings (a tool's is the schema that a model reads), but neither comments nor blank lines; every
    module of a package that finds its modules at run time (it imports `pkgutil`); templates, prompts and YAML files
    that a module names. A function that is copied out of these files is out of reach, as is what a library does.

    Args:
        modules: Dotted names, such as ``train.sft``.
        by_value: Dotted names of modules that are left out, with what only they import, because the caller compares
            what it takes from them by value.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: there is no such module.
    """
    text = "\n".join(f"{file.as_posix()} {_hash_file(file)}" for file in list_hashed_files(*modules, by_value=by_value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_hashed_files(*modules: str, by_value: Collection[str] = ()) -> list[Path]:
    """The files that :func:`compute_code_key` hashes, in order of their paths, relative to :data:`BASE`.

    Raises:
        ValueError: there is no such module.
    """
    found: set[Path] = set()
    left_out = {_find_module_file(module) for module in by_value}
    left = []
    for module in modules:
        path = _find_module_file(module)
        if path is None:
            raise ValueError(f"{module}: no such module")
        left.append(path)
    while left:
        path = left.pop()
        if path not in found and path not in left_out:
            found.add(path)
            left += _find_dependencies(path)
    return sorted(path.relative_to(BASE) for path in found)


@cache
def _find_module_file(module: str) -> Path | None:
    """File of a module of this project; None for a library's, and for names that are no module."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = BASE.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def _find_dependencies(path: Path) -> tuple[Path, ...]:
    """Files that a file needs by itself."""
    if path.suffix != ".py":
        return ()
    found: set[Path] = set()
    for node in _walk_runtime_nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(_find_data_files(path.parent, node.value))
            continue
        if "pkgutil" in names:
            found.update(path.parent.glob("*.py"))
        found.update(file for name in names if name not in EXCLUDED_MODULES and (file := _find_module_file(name)))
    # `import a.b.c` runs the packages above it too.
    above = (parent / "__init__.py" for parent in path.parents if parent.is_relative_to(BASE))
    return (*found, *(file for file in above if file.is_file()))


def _walk_runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            left += node.orelse
        else:
            yield node
            left += ast.iter_child_nodes(node)


def _find_data_files(folder: Path, text: str) -> list[Path]:
    """The file beside a module that a text names, or all files of the folder beside it that a text names."""
    if not _FILE_NAME.fullmatch(text):
        return []
    path = folder / text
    if path.is_file() and path.suffix != ".py":
        return [path]
    if path.is_dir() and not (path / "__init__.py").exists():
        return [file for file in path.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    return []


@cache
def _hash_file(relative: Path) -> str:
    data = (BASE / relative).read_bytes()
    if relative.suffix == ".py":
        data = "\n".join(_iterate_code_lines(data.decode())).encode()
    return hashlib.sha256(data).hexdigest()


def _iterate_code_lines(source: str) -> Iterator[str]:
    """Lines that are neither blank nor a comment alone; all lines of a text over several lines."""
    within: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno and node.end_lineno > node.lineno:
            within.update(range(node.lineno + 1, node.end_lineno + 1))
    for number, line in enumerate(source.split("\n"), 1):
        if number in within or (line.strip() and not line.lstrip().startswith("#")):
            yield line


def clear_caches() -> None:
    """Read every file anew: for a process that outlives a change of code."""
    for function in (_find_module_file, _find_dependencies, _hash_file):
        function.cache_clear()
