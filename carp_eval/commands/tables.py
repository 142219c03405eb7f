"""Tables for the terminal, or the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def say(text: str) -> None:
    """Print a line on standard output, as it is."""
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def warn(text: str) -> None:
    """Print a line on standard error, in yellow where there are colours."""
    Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False, highlight=False)


def show_rows(rows: Sequence[Mapping[str, Any]], *, title: str, as_json: bool) -> None:
    """Print records that share their keys."""
    if as_json:
        print(json.dumps(list(rows), indent=2, default=str))
        return
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(rows[0] if rows else []):
        table.add_column(name, no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    Console().print(table)


def show_mapping(mapping: Mapping[str, Any], *, title: str, as_json: bool) -> None:
    """Print one record, a key a line."""
    if as_json:
        print(json.dumps(dict(mapping), indent=2, default=str))
        return
    table = Table(title=escape(title), show_header=False)
    table.add_column(no_wrap=True)
    # A cut address or hash is of no use.
    table.add_column(overflow="fold")
    for key, value in mapping.items():
        table.add_row(key, escape(_cell(value)))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
