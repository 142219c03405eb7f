"""A leaderboard as a page whose columns sort."""

from pathlib import Path

from carp_eval.report import small_page
from carp_eval.report.leaderboard import Board
from carp_eval.report.leaderboard_files import LEGEND


def write(board: Board, path: Path) -> None:
    """Write a leaderboard as one HTML file.

    Args:
        board: The table.
        path: The file.

    Raises:
        StorageError: If the file cannot be written.
    """
    marked = any(cell.variant for line in board.lines for cell in line.cells.values())
    small_page.write(
        "leaderboard.html.j2", path, title="Leaderboard", board=board, legend=LEGEND if marked else ""
    )
