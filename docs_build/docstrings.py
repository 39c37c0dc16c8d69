"""Extension of griffe: convert reStructuredText roles in docstrings to Markdown before mkdocstrings renders them."""

from typing import Any

import griffe

from docs_build.markdown import convert_docstring


class ConvertRoles(griffe.Extension):
    """Convert every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = convert_docstring(obj.docstring.value)
