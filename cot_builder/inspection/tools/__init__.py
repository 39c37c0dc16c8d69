"""The tools of the inspector, one per file, each a function decorated with
:func:`~cot_builder.inspection.tools.tool.tool`.

The tools are those of IndusAgent (arXiv 2605.20682): crop, enhance, measure, prior. They are deterministic and never
receive ground truth. All modules of this package are imported in alphabetical order: adding a file adds a tool.
"""

import pkgutil
from importlib import import_module

from cot_builder.inspection.tools.tool import TOOLS, Tool, ToolError, ToolResult
from schemas.errors import check_name

__all__ = ["TOOLBOX_VERSION", "TOOLS", "Tool", "ToolError", "ToolResult", "offered_tools"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

TOOLBOX_VERSION = str(max(tool.version for tool in TOOLS.values()))
"""Version of all tools together, stored with recorded observations. It is the version of the latest changed tool."""


def offered_tools(mode: str) -> tuple[str, ...]:
    """Return the names of the tools that a policy may call in a mode of ``evaluate.mode``, in the order of the table.

    Raises:
        IndusCotError: the mode is unknown; the message lists all modes and the closest one.
    """
    left_out = {f"agent-without-{name}": name for name in TOOLS}
    check_name("evaluate.mode", mode, ["agent", "agent-no-tools", *left_out, "direct"])
    if mode in ("agent-no-tools", "direct"):
        return ()
    return tuple(name for name in TOOLS if name != left_out.get(mode))
