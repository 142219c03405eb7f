"""How a suite looks in the terminal."""

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.commands import scores, tables
from carp_eval.evaluation.suite_record import Row, Shown, SuiteRecord

COLUMNS = ("entry", "score", "value", "95 % interval", "published", "delta", "state")


def show(records: Sequence[SuiteRecord], *, as_json: bool, dry_run: bool) -> None:
    """Print a suite, or the curve of several checkpoints.

    Args:
        records: One for each model.
        as_json: Whether to print the records themselves.
        dry_run: Whether nothing has run, and only plans are to be shown.
    """
    if as_json:
        content = [record.model_dump(mode="json") for record in records]
        print(json.dumps(content[0] if len(content) == 1 else content, indent=2))
        return
    if len(records) > 1 and not dry_run:
        _show_curve(records)
    else:
        for record in records:
            _show_suite(record)
    told: set[str] = set()
    for row in (row for record in records for row in record.rows if row.reason):
        line = f"{row.state}: {_title(row)}: {row.reason}"
        if line not in told:
            tables.say(line)
        told.add(line)


def _show_suite(record: SuiteRecord) -> None:
    """Print a line for each score, and one for each entry without; reasons stand below."""
    lines: list[tuple[str, ...]] = []
    for row in record.rows:
        found = [_line(_title(row), shown, row.state) for shown in row.scores]
        lines += found or [(_title(row), "", "", "", "", "", row.state)]
    for average in record.averages:
        if average.score is None:
            lines.append(
                (average.name, "", "", "", "", "", f"{average.entries} of {len(record.rows)} entries")
            )
        else:
            mean = Shown(name=average.score.metric, score=average.score)
            lines.append(_line(average.name, mean, "mean"))
    epoch = f", epoch {record.checkpoint}" if record.checkpoint else ""
    table = Table(title=escape(f"{record.suite}: {record.model}{epoch}"), box=box.SIMPLE_HEAD, pad_edge=False)
    used = [number for number in range(len(COLUMNS)) if any(line[number] for line in lines)]
    for number in used:
        table.add_column(COLUMNS[number], no_wrap=number == 0)
    before = ""
    for line in lines:
        again = line[0] == before
        table.add_row(*("" if again and number == 0 else escape(line[number]) for number in used))
        before = line[0]
    Console().print(table)


def _show_curve(records: Sequence[SuiteRecord]) -> None:
    """Print a row for each checkpoint, and a column for each score."""
    columns = list(
        dict.fromkeys(
            (_title(row), shown.name) for record in records for row in record.rows for shown in row.scores
        )
    )
    table = Table("epoch", title=escape(f"{records[0].suite}, every checkpoint"))
    for title, metric in columns:
        table.add_column(escape(f"{title}\n{metric}"), justify="right")
    for record in records:
        values = {
            (_title(row), shown.name): f"{shown.score.value:.2f}"
            for row in record.rows
            for shown in row.scores
        }
        table.add_row(record.checkpoint, *(values.get(column, "") for column in columns))
    Console().print(table)


def _line(title: str, shown: Shown, state: str) -> tuple[str, ...]:
    score = shown.score
    return (
        title,
        shown.name,
        f"{score.value:.2f}",
        scores.interval(score),
        "\n".join(scores.published(known) for known in score.published),
        "\n".join(f"{known.delta:+.2f}" for known in score.published),
        state,
    )


def _title(row: Row) -> str:
    return f"{row.protocol} on {row.dataset}"
