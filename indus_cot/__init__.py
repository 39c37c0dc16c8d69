"""Indus-CoT: the command `indus-cot`, one file for each group of verbs."""
