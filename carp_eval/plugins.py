"""What other installed packages add: protocols, methods and data sets, found by their entry points.

A package says in its `pyproject.toml`, for example,

    [project.entry-points."carp_eval.methods"]
    toy = "my_package.method:PLUGIN"

where PLUGIN is a `kinds.ProtocolPlugin`, a `methods.MethodPlugin` or a `row.DatasetPlugin`. Nothing of a package is
imported before somebody asks for what it adds, so one that is broken stops nobody else. Our own names come first.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from carp_eval.errors import PluginError

PROTOCOLS = "carp_eval.protocols"
METHODS = "carp_eval.methods"
DATASETS = "carp_eval.datasets"
GROUPS = (PROTOCOLS, METHODS, DATASETS)

# What importing somebody's module raises where it is missing, written for other versions, or wrong.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

Kind = TypeVar("Kind")


@cache
def found(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group, by name; nothing is imported. More than one of a name is one too many."""
    by_name: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        # An editable install may show the same package twice.
        if point not in by_name.get(point.name, ()):
            by_name[point.name] = (*by_name.get(point.name, ()), point)
    return by_name


def names(group: str) -> list[str]:
    """List what installed packages add to a group, by name."""
    return sorted(found(group))


def package(point: EntryPoint) -> str:
    """Return the name and version of the package that brings an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def load(group: str, name: str, kind: type[Kind]) -> Kind | None:
    """Import what a package adds under a name; None if no package does.

    Args:
        group: One of `GROUPS`.
        name: What it is called.
        kind: What it must be.

    Raises:
        PluginError: If it cannot be imported, is not of that kind, or two packages bring it.
    """
    points = found(group).get(name, ())
    if not points:
        return None
    point, *others = points
    if others:
        raise PluginError(
            f"{name} in {group} comes from {' and '.join(map(package, points))}: uninstall all but one of them"
        )
    loaded = _imported(point, what=name)
    if not isinstance(loaded, kind):
        raise PluginError(
            f"{name}, from the package {package(point)}, must be a {kind.__module__}.{kind.__name__}, and "
            f"{point.value} is a {type(loaded).__name__}: that package is broken, or for another release"
        )
    return loaded


def resolve(group: str, name: str, reference: str) -> Any:
    """Import what a plugin names as `module:attribute`, so that it need not import heavy parts itself.

    Args:
        group: The group of the plugin.
        name: The plugin.
        reference: What it names.

    Raises:
        PluginError: If it cannot be imported.
    """
    (point,) = found(group)[name]
    named = EntryPoint(name=name, value=reference, group=group)
    return _imported(named, what=name, by=package(point))


def _imported(point: EntryPoint, *, what: str, by: str | None = None) -> Any:
    try:
        return point.load()
    except _BROKEN as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{what} comes from the package {by or package(point)}, whose {point.value} cannot be imported ({reason}). "
            "Update that package, or uninstall it"
        ) from error
