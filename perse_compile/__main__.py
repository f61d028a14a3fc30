"""`python -m perse_compile`."""

from perse_compile.cli import main

main()
