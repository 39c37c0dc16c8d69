"""The page of all parameters: types from the pydantic models, defaults and comments from params.yaml."""

import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cot_builder.params import Params, PullSet
from docs_build.markdown import attribute_docs, code, described_table, sentence, table
from schemas.table import unwrap_annotation
from train.rewards import list_terms, reward_parameters

_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?P<rest>.*)$")
_COMMENT = re.compile(r"^ *# ?(?P<text>.*)$")


def parameters_page(root: Path) -> str:
    """Every parameter with type, default and description, a section each, and every profile."""
    text = (root / "params.yaml").read_text(encoding="utf-8")
    values, comments = yaml.safe_load(text), read_comments(text)
    head = "\n".join(line.removeprefix("# ").removeprefix("#") for line in text.split("\n\n")[0].splitlines())
    parts = [
        "# Parameters",
        f"{head}\n\nGenerated from `params.yaml` and from the models in `cot_builder/params.py`. `null` means that no "
        "value is set. An unknown name or a value that does not fit stops the run; the message names the parameter.",
    ]
    for name, info in Params.model_fields.items():
        parts.append(f"## {name}")
        parts.append(sentence(comments.get((name,), "")))
        if name == "pull":
            parts.append(_pull(values[name]))
            continue
        rows = list(_rows((name,), info.annotation, values[name], comments))
        parts.append(described_table(["parameter", "type", "default", "description"], rows))
    parts += ["## Profiles", _profiles(root)]
    return "\n\n".join(part for part in parts if part) + "\n"


def parameter_names(root: Path) -> set[str]:
    """Dotted names of all parameters and sections; sets of ``pull`` as ``pull.NAME``."""
    found: set[str] = set()

    def walk(path: str, annotation: Any) -> None:
        found.add(path)
        if is_section(annotation):
            for key, info in annotation.model_fields.items():
                walk(f"{path}.{key}", info.annotation)

    for name, info in Params.model_fields.items():
        walk(name, info.annotation)
    found |= {f"grpo.reward.{name}" for name in reward_parameters()}
    sets = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["pull"]
    found |= {
        f"pull.{name}{key}" for name in [*sets, "NAME"] for key in ("", *(f".{key}" for key in PullSet.model_fields))
    }
    return found


def read_comments(text: str) -> dict[tuple[str, ...], str]:
    """Comment of each key of a YAML text, by its path: the one behind it, its next lines, or the one above a list."""
    found: dict[tuple[str, ...], str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not line.strip():
            path = []
            continue
        if match := _LINE.match(line):
            indent = len(match["indent"])
            path = [item for item in path if item[0] < indent] + [(indent, match["key"])]
            _, hash_sign, comment = match["rest"].partition(" #")
            if hash_sign:
                found[tuple(key for _, key in path)] = comment.strip()
        elif path and (match := _COMMENT.match(line)):
            key = tuple(name for _, name in path)
            found[key] = f"{found.get(key, '')} {match['text']}".strip()
    return found


def is_section(annotation: Any) -> bool:
    """Whether a type is a section with parameters of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def describe_type(annotation: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """Plain words for the type of a parameter or column, with its range."""
    bare, own, is_optional = unwrap_annotation(annotation)
    bounds = "".join(_bounds([*own, *metadata]))
    return f"{_type_name(bare)}{bounds}{', or null' if is_optional else ''}"


def _rows(
    path: tuple[str, ...], section: Any, values: Mapping[str, Any], comments: Mapping[tuple[str, ...], str]
) -> Iterator[tuple[str, str, str, str]]:
    docs = attribute_docs(section)
    for key, info in section.model_fields.items():
        place = (*path, key)
        if is_section(info.annotation):
            yield from _rows(place, info.annotation, values[key], comments)
        elif place == ("grpo", "reward"):
            yield code("grpo.reward"), "weights", "", sentence(comments.get(place, ""))
            yield from _reward_rows(values[key], comments)
        else:
            words = " ".join(sentence(text) for text in (comments.get(place, ""), docs.get(key, "")) if text)
            yield code(".".join(place)), describe_field(info), code(_as_yaml(values[key])), words


def _reward_rows(
    values: Mapping[str, float], comments: Mapping[tuple[str, ...], str]
) -> Iterator[tuple[str, str, str, str]]:
    weighed = {term.weight: term.title for term in list_terms()}
    for name, default in reward_parameters().items():
        words = sentence(comments.get(("grpo", "reward", name), "") or f"weight of {weighed.get(name, 'a term')}")
        yield code(f"grpo.reward.{name}"), "number, at least 0", code(values.get(name, default)), words


def _pull(sets: Mapping[str, Any]) -> str:
    docs = attribute_docs(PullSet)
    rows = [
        (
            code(f"pull.NAME.{key}"),
            describe_field(info),
            "required" if info.is_required() else code(_as_yaml(info.default)),
            sentence(docs.get(key, "")),
        )
        for key, info in PullSet.model_fields.items()
    ]
    given = [
        (code(name), *(code(_as_yaml(item[key])) for key in ("benchmark", "source", "role")))
        for name, item in sets.items()
    ]
    return (
        f"{described_table(['parameter', 'type', 'default', 'description'], rows)}\n\nThe sets of `params.yaml`:\n\n"
        f"{table(['NAME', 'benchmark', 'source', 'role'], given)}"
    )


def _profiles(root: Path) -> str:
    parts = ["A profile overrides single values. Choose it with `indus-cot --profile NAME …` or `INDUS_COT_PROFILE`."]
    for path in sorted((root / "profiles").glob("*.yaml")):
        parts += [f"### {path.stem}", f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts)


def describe_field(info: FieldInfo) -> str:
    """Plain words for the type of a pydantic field."""
    return describe_type(info.annotation, info.metadata)


def _type_name(bare: Any) -> str:
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return "one of " + ", ".join(code(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(item) for item in arguments)
    if origin is list:
        return f"list of {describe_type(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} × {describe_type(arguments[0])}"
    if origin is dict:
        return f"map of {describe_type(arguments[1])}"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", bytes: "bytes"}
    return names[bare] if bare in names else str(getattr(bare, "__name__", bare))


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            for kind, attribute, word in (
                (annotated_types.Ge, "ge", "at least"),
                (annotated_types.Gt, "gt", "more than"),
                (annotated_types.Le, "le", "at most"),
                (annotated_types.Lt, "lt", "less than"),
            ):
                if isinstance(part, kind):
                    yield f", {word} {getattr(part, attribute)}"
            if isinstance(part, annotated_types.MinLen) and part.min_length:
                yield f", length at least {part.min_length}"
            if isinstance(part, annotated_types.MaxLen) and part.max_length:
                yield f", length at most {part.max_length}"


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if value == "":
        return '""'
    return str(value).lower() if isinstance(value, bool) else str(value)
