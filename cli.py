"""Start the `carp` command from a checkout: `python cli.py --help`."""

from carp_eval.commands import main

main()
