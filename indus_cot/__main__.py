"""`python -m indus_cot` is `indus-cot`."""

from indus_cot.app import main

main()
