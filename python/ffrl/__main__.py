"""`python -m ffrl`."""

from ffrl.cli import main

main()
