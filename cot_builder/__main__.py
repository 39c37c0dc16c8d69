"""`python -m cot_builder` is `indus-cot`."""

from cot_builder.cli import main

main()
