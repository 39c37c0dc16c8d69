"""Builds the documentation site: hooks of mkdocs, and pages generated from the code. Not part of the package."""
