"""The grid of a sweep: settings with several values each, and every way to choose one of each."""

import itertools
from collections.abc import Mapping, Sequence

from carp_eval.errors import UsageError

_CLOSING = {"[": "]", "{": "}"}


def parse(settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read settings as a command line has them, `schedule.epochs=10,20`.

    A comma inside quotes or brackets parts nothing: `views=[...],[...]` has two values.

    Args:
        settings: Each a key of the recipe and its values.

    Returns:
        The values by key, in order.

    Raises:
        UsageError: If one has no values, names a value twice, or a key comes twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        key, found = key.strip(), _split(values)
        if not equals or not key or not all(found):
            raise UsageError(
                f"--set expects KEY=VALUE,VALUE, as in --set optimiser.lr=0.1,0.2; got {setting!r}"
            )
        if key in grid:
            raise UsageError(
                f"--set names {key} twice: give all its values at once, {key}={','.join(grid[key])},..."
            )
        if len(set(found)) < len(found):
            raise UsageError(f"--set {setting} names a value twice")
        grid[key] = found
    return grid


def combinations(grid: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return every way to choose a value of each key; the last key changes fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _split(text: str) -> tuple[str, ...]:
    """Split at the commas that stand outside of quotes and brackets."""
    parts, closing, quote = [""], list[str](), ""
    for letter in text:
        if letter == "," and not closing and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _CLOSING:
            closing.append(_CLOSING[letter])
        elif closing and letter == closing[-1]:
            closing.pop()
        parts[-1] += letter
    return tuple(part.strip() for part in parts)
