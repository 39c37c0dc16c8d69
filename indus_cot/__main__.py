"""Runs the `indus-cot` command as `python -m indus_cot`."""

from indus_cot.app import main

main()
