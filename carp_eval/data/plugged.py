"""Data sets that other packages bring, by entry point."""

from collections.abc import Callable

from carp_eval import plugins
from carp_eval.data.row import DatasetPlugin
from carp_eval.errors import PluginError


def plugin(name: str) -> DatasetPlugin | None:
    """Return a data set that another package brings; None if none does.

    Raises:
        PluginError: If its package does not work.
    """
    return plugins.load(plugins.DATASETS, name, DatasetPlugin)


def working(*, on_broken: Callable[[PluginError], None]) -> dict[str, DatasetPlugin]:
    """Return every data set that other packages bring, by name.

    Args:
        on_broken: Is told of those whose package does not work.
    """
    found: dict[str, DatasetPlugin] = {}
    for name in plugins.names(plugins.DATASETS):
        try:
            brought = plugin(name)
        except PluginError as error:
            on_broken(error)
        else:
            assert brought is not None
            found[name] = brought
    return found
