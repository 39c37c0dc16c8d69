"""Data contracts: what every table of the project holds. Imports nothing of the project."""
