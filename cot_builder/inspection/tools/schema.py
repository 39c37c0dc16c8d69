"""Builds the JSON schema of a function from its signature and docstring."""

import inspect
import re
import types
from typing import Any, Literal, Union, get_args, get_origin


def function_schema(name: str, docstring: str, signature: inspect.Signature) -> dict[str, Any]:
    """Build the schema of a function, in the form of OpenAI function tools.

    Args:
        name: Name of the function.
        docstring: Text from :func:`inspect.getdoc`, with ``Args:`` in Google style.
        signature: The parameters with their types.

    Raises:
        TypeError: a parameter has no description, or a type that JSON does not have.
    """
    summary, _, rest = docstring.partition("\n\nArgs:\n")
    arguments = rest.split("\n\n")[0]
    described = {
        argument: " ".join(text.split())
        for argument, text in re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)$", arguments, flags=re.MULTILINE)
    }
    parameters = signature.parameters.values()
    if missing := [p.name for p in parameters if p.name not in described]:
        raise TypeError(f"tool {name}: describe {', '.join(missing)} under Args: of its docstring")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": summary.strip(),
            "parameters": {
                "type": "object",
                "properties": {
                    p.name: _type_schema(p.annotation) | {"description": described[p.name]} for p in parameters
                },
                "required": [p.name for p in parameters if p.default is inspect.Parameter.empty],
            },
        },
    }


def _type_schema(hint: Any) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _type_schema(next(option for option in get_args(hint) if option is not type(None))) | {"nullable": True}
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if origin is list:
        return {"type": "array", "items": _type_schema(get_args(hint)[0])}
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if hint not in names:
        raise TypeError(f"a tool's parameter cannot be {hint}; use str, int, float, bool, Literal, list or None")
    return {"type": names[hint]}
