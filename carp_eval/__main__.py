"""`python -m carp_eval`, as torchrun starts it."""

from carp_eval.commands import main

main()
