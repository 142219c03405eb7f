"""How a leaderboard looks in the terminal: the columns that fit, and what was left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.commands import tables
from carp_eval.report.leaderboard import Board, Cell, Column, Line
from carp_eval.report.leaderboard_files import LEGEND, shown
from carp_eval.report.svg import plain

# Letters of a model's name and of a source.
LONGEST = 34
# Letters of a line of a column's title.
TITLE = 18
BESIDE = 2
# Columns below which intervals make room for others.
FEWEST = 4


def show(board: Board, *, rows: int, as_json: bool) -> None:
    """Print a leaderboard.

    Args:
        board: The table.
        rows: How many of its lines.
        as_json: Whether to print JSON instead, with all lines and columns.
    """
    if as_json:
        print(json.dumps(_content(board), indent=2))
        return
    console = Console()
    lines = board.lines[:rows]
    sources = any(line.is_published for line in lines)
    taken = 2 * BESIDE + max(_width(_model(line)) for line in lines)
    taken += max(_width(_source(line)) for line in lines) + BESIDE if sources else 0
    columns = _fitting(board, lines, console.width - taken, shown)
    tell = shown
    if len(columns) < min(FEWEST, len(board.columns)):
        tell = _bare
        columns = _fitting(board, lines, console.width - taken, tell)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold", max_width=LONGEST)
    if sources:
        table.add_column("source", overflow="fold", max_width=LONGEST)
    for column in columns:
        table.add_column("\n".join(escape(part) for part in _parts(column)), justify="right", overflow="fold")
    for line in lines:
        style = "dim" if line.is_published else None
        cells = [tell(line.cells.get(column)) for column in columns]
        source = [escape(_source(line))] if sources else []
        table.add_row(escape(_model(line)), *source, *cells, style=style)
    console.print(table)
    _tell(board, lines, columns)
    if tell is _bare:
        tables.say("intervals are in a wider terminal, --csv, --markdown and --html")


def _tell(board: Board, lines: tuple[Line, ...], columns: tuple[Column, ...]) -> None:
    if any(cell.variant for line in lines for column, cell in line.cells.items() if column in columns):
        tables.say(LEGEND)
    if len(lines) < len(board.lines):
        tables.say(
            f"{len(board.lines) - len(lines):,} more rows: --rows {len(board.lines)}, or a file, has them"
        )
    left = [column for column in board.columns if column not in columns]
    if left:
        names = "; ".join(plain(column.title) for column in left[:6])
        more = f" and {len(left) - 6} more" if len(left) > 6 else ""
        tables.say(
            f"{len(left)} of {len(board.columns)} columns did not fit: {names}{more}. --protocol, -d and --metric "
            "choose among them; --csv, --markdown and --html have them all"
        )
    if board.older:
        tables.say(f"{board.older:,} older numbers of the same models and columns are not shown")


def _bare(cell: Cell | None) -> str:
    """Return a number without its interval."""
    return shown(None if cell is None else replace(cell, low=None, high=None))


def _fitting(
    board: Board, lines: tuple[Line, ...], width: int, tell: Callable[[Cell | None], str]
) -> tuple[Column, ...]:
    """Return the first columns that there is room for, one at least."""
    kept: list[Column] = []
    for column in board.columns:
        cells = [len(tell(line.cells.get(column))) for line in lines]
        width -= max([*cells, *(cell_len(part) for part in _parts(column))]) + BESIDE
        if width < 0 and kept:
            break
        kept.append(column)
    return tuple(kept)


def _parts(column: Column) -> list[str]:
    """Return a column's title in several lines, none longer than it needs to be."""
    told = (column.protocol, f"{column.dataset} {column.split}", column.score, column.conditions)
    lines: list[str] = []
    for text in filter(None, map(plain, told)):
        line = ""
        for word in text.split():
            if line and cell_len(line) + 1 + cell_len(word) > TITLE:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def _model(line: Line) -> str:
    return plain(f"{line.model} ({line.told})" if line.told else line.model)


def _source(line: Line) -> str:
    return plain(line.source)


def _width(text: str) -> int:
    return min(cell_len(text), LONGEST)


def _content(board: Board) -> dict[str, Any]:
    def column(each: Column) -> dict[str, str]:
        return {
            "protocol": each.protocol,
            "dataset": each.dataset,
            "split": each.split,
            "score": each.score,
            "conditions": each.conditions,
        }

    return {
        "columns": [column(each) for each in board.columns],
        "rows": [
            {
                "model": line.model,
                "told": line.told,
                "source": line.source,
                "published": line.is_published,
                "cells": [
                    {
                        "column": number,
                        "value": cell.value,
                        "low": cell.low,
                        "high": cell.high,
                        "another_variant": cell.variant,
                    }
                    for number, each in enumerate(board.columns)
                    if (cell := line.cells.get(each)) is not None
                ],
            }
            for line in board.lines
        ],
        "older": board.older,
    }
