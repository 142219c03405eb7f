"""A page of tables in one file: it holds all that it shows, and opens from the disk without a network."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carp_eval import files, results
from carp_eval.report import rendering

SCRIPT = "sorting.js"


def write(template: str, path: Path, **told: Any) -> None:
    """Fill a template in and write it.

    Args:
        template: Its name.
        path: The file.
        told: What the template speaks of; every text of it is escaped.

    Raises:
        StorageError: If the file cannot be written.
    """
    page = rendering.render(
        template,
        scripts=[SCRIPT],
        version=results.versions().get("carp-eval", ""),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **told,
    )
    files.write_text(path, page)
