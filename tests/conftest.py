"""Fixtures of more than one test file."""

from label_studio_server import label_studio

__all__ = ["label_studio"]
