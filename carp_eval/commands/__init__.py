"""The command `carp`: one module per command, which parses, calls one function and prints."""

from carp_eval.commands.app import main

__all__ = ["main"]
