"""The inspector's tools: one file each, with one function that :func:`~cot_builder.inspection.tools.tool.tool` marks.

The tools are those of IndusAgent (arXiv 2605.20682): crop, enhance, measure, prior. They are deterministic and never
given ground truth. Every module of this package is imported, in the order of their names: adding a file adds a tool.
"""

import pkgutil
from importlib import import_module

from cot_builder.inspection.tools.tool import TOOLS, Tool, ToolError, ToolResult
from schemas.errors import check_name

__all__ = ["TOOLBOX_VERSION", "TOOLS", "Tool", "ToolError", "ToolResult", "offered_tools"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

TOOLBOX_VERSION = str(max(tool.version for tool in TOOLS.values()))
"""Version of the tools as a whole, which recorded observations name: that of the tool that changed last."""


def offered_tools(mode: str) -> tuple[str, ...]:
    """Names of the tools that a policy is offered in a mode of ``evaluate.mode``, in the table's order.

    Raises:
        IndusCotError: there is no such mode; the message lists all modes and the closest.
    """
    without = {f"agent-without-{name}": name for name in TOOLS}
    check_name("evaluate.mode", mode, ["agent", "agent-no-tools", *without, "direct"])
    if mode in ("agent-no-tools", "direct"):
        return ()
    return tuple(name for name in TOOLS if name != without.get(mode))
