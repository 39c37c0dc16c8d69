"""Data contracts of every table. This package imports no other package of the project."""
