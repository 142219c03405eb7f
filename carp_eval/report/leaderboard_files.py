"""A leaderboard as CSV and as Markdown; names in it come from others' files, and stay what they are."""

import csv
import io
import re

from carp_eval.checkpoints.publishing import markdown
from carp_eval.report.leaderboard import Board, Cell
from carp_eval.report.svg import plain

# What a spreadsheet takes for the beginning of a formula.
FORMULA = re.compile(r"^\s*[=+\-@\t\r|%]")
ANOTHER = "†"
LEGEND = (
    f"{ANOTHER}: published of another variant of the protocol, or of a variant or settings that nobody told."
)


def as_csv(board: Board) -> str:
    """Return a table with three columns for each number: its value and the ends of its interval."""
    into = io.StringIO()
    writer = csv.writer(into, lineterminator="\n")
    head = ["model", "told", "source"]
    for column in board.columns:
        head += [column.title, f"{column.title}, low", f"{column.title}, high", f"{column.title}, variant"]
    writer.writerow([_text(name) for name in head])
    for line in board.lines:
        row = [_text(line.model), _text(line.told), _text(line.source)]
        for column in board.columns:
            cell = line.cells.get(column)
            row += ["", "", "", ""] if cell is None else [*_numbers(cell), _text(cell.variant)]
        writer.writerow(row)
    return into.getvalue()


def as_markdown(board: Board) -> str:
    """Return a table of Markdown, and what its mark means."""
    head = ["model", "source", *(markdown.escape(plain(column.title)) for column in board.columns)]
    rows = [
        [
            markdown.escape(plain(f"{line.model} ({line.told})" if line.told else line.model)),
            markdown.escape(plain(line.source)),
            *(shown(line.cells.get(column)) for column in board.columns),
        ]
        for line in board.lines
    ]
    marked = any(cell.variant for line in board.lines for cell in line.cells.values())
    return markdown.table(head, rows) + "\n" + (f"\n{LEGEND}\n" if marked else "")


def shown(cell: Cell | None) -> str:
    """Return a number with its interval and, of another variant, its mark; empty where there is none."""
    if cell is None:
        return ""
    told = f"{cell.value:.2f}{ANOTHER if cell.variant else ''}"
    return told if cell.low is None or cell.high is None else f"{told} ({cell.low:.1f} to {cell.high:.1f})"


def _numbers(cell: Cell) -> list[str]:
    return ["" if value is None else f"{value:.4f}" for value in (cell.value, cell.low, cell.high)]


def _text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    told = plain(text)
    return f"'{told}" if FORMULA.match(told) else told
