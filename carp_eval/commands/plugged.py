"""Commands of `carp eval` for the protocols that other packages bring, made when they are asked for."""

from typing import Any

import typer
from typer.core import TyperGroup

from carp_eval import plugins
from carp_eval.commands.protocol import protocol
from carp_eval.errors import PluginError


class WithPlugins(TyperGroup):
    """A group of commands that asks installed packages for those it has not itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List our commands, then those of other packages; nothing of those is imported."""
        ours = super().list_commands(ctx)
        return [*ours, *(name for name in plugins.names(plugins.PROTOCOLS) if name not in ours)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command: ours, or one made of another package's protocol."""
        ours = super().get_command(ctx, cmd_name)
        if ours is not None or cmd_name not in plugins.names(plugins.PROTOCOLS):
            return ours
        return _command(cmd_name)


def _command(kind: str) -> Any:
    """Make the command of another package's protocol; where that does not work, one that says so when it runs."""
    # Cards are read by pydantic, which the help of our own commands does without.
    from carp_eval.cards import kinds

    alone = typer.Typer(add_completion=False)
    try:
        brought = kinds.plugin(kind)
    except PluginError as error:
        failure = error

        def broken() -> None:
            raise failure

        broken.__doc__ = "Does not work: its package cannot be imported (see `carp doctor`)."
        alone.command(kind, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
            broken
        )
    else:
        assert brought is not None
        alone.command(kind)(protocol(kind, default=brought.variant, place=brought.cards)(brought.command))
    command = typer.main.get_command(alone)
    command.name = kind
    return command
