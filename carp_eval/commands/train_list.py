"""What `carp train --list` shows: the recipes by method, the rows of one published table as one."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any


def show(matching: str | None) -> None:
    """List recipes, a table for each method.

    Args:
        matching: Part of the names to list, or a pattern with `*`; these are listed one by one, with what to expect of
            them. None lists all, and of a series of recipes what their names have in common.

    Raises:
        CarpError: If a recipe of ours is broken.
        UsageError: If no name matches.
    """
    from carp_eval.cards import loading, methods
    from carp_eval.commands import tables
    from carp_eval.errors import UsageError

    known = methods.recipes(on_broken=lambda error: tables.warn(str(error)))
    names = [name for name in known if matching is None or _matches(name, matching)]
    if matching is not None and not names:
        raise UsageError(f"no recipe has {matching!r} in its name: carp train --list, alone, names all")
    cards = {name: loading.recipe(name) for name in sorted(names, key=_in_order)}
    used = {card.method for card in cards.values()}
    ours = [method for method in methods.TYPES if method in used]
    for method in (*ours, *sorted(used.difference(ours))):
        of_method = {name: card for name, card in cards.items() if card.method == method}
        rows = _by_series(of_method) if matching is None else _one_by_one(of_method)
        tables.show_rows(rows, title=f"Recipes of {method}", as_json=False)
    if matching is None:
        tables.say(
            "train one: carp train NAME    what to expect, the rows of a name with *: carp train --list NAME"
        )


def common(names: Sequence[str]) -> str:
    """Return names as one pattern: what all begin and end with, `*` for the rest, no number torn in two."""
    start = _shared(names)
    end = _shared([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start.rstrip('0123456789')}*{end.lstrip('0123456789')}"


def _shared(names: Sequence[str]) -> str:
    return "".join(
        signs[0] for signs in takewhile(lambda signs: len(set(signs)) == 1, zip(*names, strict=False))
    )


def _matches(name: str, matching: str) -> bool:
    return fnmatchcase(name, matching) if "*" in matching else matching in name


def _by_series(cards: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each recipe, but one for all of a series, where the first of them would stand."""
    rows: dict[str, dict[str, str]] = {}
    for name, card in cards.items():
        series = [other for other in cards if card.series and cards[other].series == card.series]
        if len(series) > 1:
            name, what = common(series), f"{card.series} ({len(series)} recipes)"
        else:
            what = card.summary
        rows.setdefault(name, {"recipe": name, "what it is": what})
    return list(rows.values())


def _one_by_one(cards: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "recipe": name,
            "what it is": card.summary,
            "expect": f"{card.expect.score} {card.expect.time}".strip(),
        }
        for name, card in cards.items()
    ]


def _in_order(name: str) -> list[str | int]:
    """Order names as a person would, numbers by their size."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
