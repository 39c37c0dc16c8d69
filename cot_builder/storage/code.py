"""Compute the code key of a module: a hash of all code and text of this project that its result depends on.

DVC stages, kept evaluations and `data/publish` use it, so that a code change invalidates only the results that
depend on it.
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

BASE = Path(__file__).parents[2]
"""The folder that contains the project's packages: a checkout or `site-packages`."""
PACKAGES = ("schemas", "cot_builder", "annotation", "train", "eval", "indus_cot")
EXCLUDED_MODULES = ("cot_builder.params", "cot_builder.progress", "schemas.errors")
"""Not hashed: these modules only pass on values, progress and messages. Parameters are compared by value instead."""


_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
"""Matches string constants that may be the name of a file or a folder."""


def compute_code_key(*modules: str, by_value: Collection[str] = ()) -> str:
    """Hash the modules, all project modules that they import (lazy imports included), and the files that these read.

    Docstrings count, because a tool's docstring is the schema that a model reads; comments and blank lines do not.
    If a package finds its modules at run time (it imports `pkgutil`), all its modules count. Templates, prompts and
    YAML files count if a module names them. Libraries do not count, and neither do copies of this code elsewhere.

    Args:
        modules: Dotted names, such as ``train.sft``.
        by_value: Dotted names of modules to skip, together with the modules that only they import, because the
            caller compares their values directly.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: a module does not exist.
    """
    text = "\n".join(f"{file.as_posix()} {_hash_file(file)}" for file in list_hashed_files(*modules, by_value=by_value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_hashed_files(*modules: str, by_value: Collection[str] = ()) -> list[Path]:
    """List the files that :func:`compute_code_key` hashes, relative to :data:`BASE`, sorted by path.

    Raises:
        ValueError: a module does not exist.
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
    """Return the file of a module of this project; None for library modules and for names that are not modules."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = BASE.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def _find_dependencies(path: Path) -> tuple[Path, ...]:
    """Return the files that a file depends on directly."""
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
    # `import a.b.c` also runs `a/__init__.py` and `a/b/__init__.py`.
    above = (parent / "__init__.py" for parent in path.parents if parent.is_relative_to(BASE))
    return (*found, *(file for file in above if file.is_file()))


def _walk_runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes outside `if TYPE_CHECKING:` blocks."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            left += node.orelse
        else:
            yield node
            left += ast.iter_child_nodes(node)


def _find_data_files(folder: Path, text: str) -> list[Path]:
    """Return the file, or all files of the folder, of the name ``text`` next to a module."""
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
    """Yield the lines that are not blank and not only a comment; inside multi-line strings, yield every line."""
    within: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno and node.end_lineno > node.lineno:
            within.update(range(node.lineno + 1, node.end_lineno + 1))
    for number, line in enumerate(source.split("\n"), 1):
        if number in within or (line.strip() and not line.lstrip().startswith("#")):
            yield line


def clear_caches() -> None:
    """Forget all files read so far, for a process that keeps running while code changes."""
    for function in (_find_module_file, _find_dependencies, _hash_file):
        function.cache_clear()
