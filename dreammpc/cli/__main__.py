"""`python -m dreammpc.cli` is `dreammpc`."""

from dreammpc.cli.parser import main

main()
