"""Shards of original bytes and whole-or-nothing stage output."""
