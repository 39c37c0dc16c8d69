"""Procedural rendering of small copies of data sets, so that every loader runs without a download."""
