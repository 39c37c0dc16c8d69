"""Tests mirror the house; run them with `make test`."""
