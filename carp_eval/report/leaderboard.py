"""Results of many models as one table, and what was published of others beside them.

A column is one number: a protocol's variant on a data set, a metric, and what tells it from others of that metric.
Results that were judged on other images, or with other values of the card, have columns of their own.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from carp_eval.cards.published import ColumnCard, PublishedCard
from carp_eval.data.source import SPLIT_NAMES, spellings
from carp_eval.data.table import row_of
from carp_eval.report import alike
from carp_eval.report.found import Found, main_scores
from carp_eval.results import Result, Score

SHOWN_OF_A_HASH = 8
# The hash of every model without weights: that of nothing.
NO_WEIGHTS = hashlib.sha256().hexdigest()
POOL = "pool"


@dataclass(frozen=True)
class Column:
    """One number that models have.

    Attributes:
        protocol: The protocol and its variant.
        dataset: The data set whose images were scored, by name, and what it was learnt from where that is another.
        split: The split that was scored.
        score: Metric and settings.
        conditions: What tells it from columns of the same name: values of the card, or the images.
    """

    protocol: str
    dataset: str
    split: str
    score: str
    conditions: str = ""

    @property
    def title(self) -> str:
        """What to call it in a line."""
        told = f"{self.protocol}, {self.dataset} {self.split}: {self.score}"
        return f"{told}, {self.conditions}" if self.conditions else told


@dataclass(frozen=True)
class Cell:
    """A model's number.

    Attributes:
        value: In percent, where the metric is a share.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        variant: Of a published number of another variant, which; or what of variant and settings its document does not
            tell. Empty for numbers of the column's own.
    """

    value: float
    low: float | None = None
    high: float | None = None
    variant: str = ""


@dataclass(frozen=True)
class Line:
    """A model's numbers: ours, or those of one table of a document.

    Attributes:
        model: Its name.
        told: What tells it from others of the name: branch and weights, or what the table says of it.
        source: `measured`, or the document and table.
        cells: By column.
    """

    model: str
    told: str
    source: str
    cells: dict[Column, Cell]

    @property
    def is_published(self) -> bool:
        """Whether others measured it."""
        return self.source != MEASURED


@dataclass(frozen=True)
class Board:
    """The table.

    Attributes:
        columns: Those that most models have first.
        lines: The best of the column that it is sorted by first; those without a number there last.
        older: Results left out for a newer one of the same model and column.
    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    older: int


@dataclass(frozen=True)
class _Number:
    found: Found
    score: Score
    column: Column
    conditions: dict[str, Any]


MEASURED = "measured"


def board(
    found: Iterable[Found],
    tables: Sequence[PublishedCard],
    *,
    metrics: Collection[str] = (),
    protocol: str | None = None,
    dataset: str | None = None,
    sort: str | None = None,
) -> Board:
    """Put a table together.

    Args:
        found: Results, the newest first.
        tables: What was published.
        metrics: The metrics to show; none are the main ones of each result.
        protocol: `KIND` or `KIND@VARIANT`; None for all.
        dataset: The data set whose images were scored; None for all.
        sort: Words of the title of the column to sort by; None is the first.
    """
    numbers = [
        number
        for each in found
        if alike.is_of(each.result, protocol=protocol, dataset=dataset)
        for number in _numbers(each, metrics)
    ]
    named = _told_apart(numbers)
    ours, older = _measured(named)
    columns = tuple(sorted({column for line in ours for column in line.cells}, key=_order(ours)))
    theirs = _published(tables, {number.column: number for number in reversed(named)})
    whole = Board(columns, (*ours, *theirs), older)
    first = sorted_by(whole, sort or "")
    return replace(whole, lines=tuple(sorted(whole.lines, key=lambda line: _rank(line, first))))


def sorted_by(board: Board, words: str) -> Column | None:
    """Return the first column whose title has all the words; None if none has."""
    wanted = words.casefold().split()
    return next(
        (column for column in board.columns if all(word in column.title.casefold() for word in wanted)), None
    )


def dataset_name(spelling: str) -> str:
    """Return what documents call a data set: its name, also of a copy that was spelled `NAME:PATH`."""
    return spelling if row_of(spelling) is None else spelling.partition(":")[0]


def _numbers(found: Found, metrics: Collection[str]) -> list[_Number]:
    result = found.result
    scores = [each for each in result.scores if each.metric in metrics] if metrics else main_scores(result)
    data = dataset_name(result.query_dataset)
    if result.query_dataset != result.dataset:
        data += f", learnt from {dataset_name(result.dataset)}"
    conditions = alike.conditions_of(result, without=alike.told_by_scores(result))
    protocol = f"{result.protocol}@{result.variant}"
    return [
        _Number(found, each, Column(protocol, data, result.query_split, each.name), conditions)
        for each in scores
    ]


def _told_apart(numbers: Sequence[_Number]) -> list[_Number]:
    """Give columns of the same name that do not mean the same what tells them apart."""
    of_column: dict[Column, list[_Number]] = {}
    for number in numbers:
        of_column.setdefault(number.column, []).append(number)
    told: list[_Number] = []
    for number in numbers:
        beside = [other.conditions for other in of_column[number.column]]
        keys = dict.fromkeys(key for conditions in beside for key in conditions)
        differ = [key for key in keys if any(each.get(key) != beside[0].get(key) for each in beside)]
        words = ", ".join(f"{key} {_short(key, number.conditions.get(key))}" for key in differ)
        told.append(replace(number, column=replace(number.column, conditions=words)))
    return told


def _measured(numbers: Sequence[_Number]) -> tuple[list[Line], int]:
    """Return a line for each model, with its newest number of each column, and how many were older.

    The same name with other weights has a line of its own.
    """
    cells: dict[tuple[str, ...], dict[Column, Cell]] = {}
    names: dict[tuple[str, ...], Result] = {}
    seen: set[tuple[tuple[str, ...], Column, str]] = set()
    older = 0
    for number in numbers:
        result = number.found.result
        model = _identity(result)
        names.setdefault(model, result)
        of_model = cells.setdefault(model, {})
        if number.column not in of_model:
            of_model[number.column] = Cell(number.score.value, number.score.low, number.score.high)
        # A copy of the same record, such as one that was pushed and pulled again, is none that is older.
        elif (model, number.column, result.finished) not in seen:
            older += 1
        seen.add((model, number.column, result.finished))
    lines = [
        (result, Line(result.model, _weights(result), MEASURED, cells[model]))
        for model, result in names.items()
    ]
    return _joined(lines), older


def _identity(result: Result) -> tuple[str, ...]:
    """Return what tells a model from any other: its weights, or its name where it has none, as raw pixels."""
    told = (result.weights_sha256, result.branch)
    return (*told, result.model) if result.weights_sha256 == NO_WEIGHTS else told


def _joined(lines: Sequence[tuple[Result, Line]]) -> list[Line]:
    """Join what was judged by its projection, whose weights count in its hash, to the line of the same model.

    Where a name has several weights, nobody knows which trunk a projection is of: all stay apart.
    """
    of_name: dict[tuple[str, str], list[tuple[Result, Line]]] = {}
    for result, line in lines:
        of_name.setdefault((result.model, result.branch), []).append((result, line))
    joined: list[Line] = []
    for beside in of_name.values():
        trunks = [line for result, line in beside if result.layer == POOL]
        heads = [line for result, line in beside if result.layer != POOL]
        if len(trunks) == len(heads) == 1 and not trunks[0].cells.keys() & heads[0].cells.keys():
            told = f"{trunks[0].told}, with its head {heads[0].told.rpartition(' ')[2]}"
            joined.append(replace(trunks[0], told=told, cells=trunks[0].cells | heads[0].cells))
        else:
            joined += [line for _, line in beside]
    return joined


def _published(tables: Sequence[PublishedCard], columns: dict[Column, _Number]) -> list[Line]:
    """Return a line for each row of a table that has a number of one of the columns."""
    lines: list[Line] = []
    for table in tables:
        fitting = {
            name: {column: number for column, number in columns.items() if _fits(card, number)}
            for name, card in table.columns.items()
        }
        for row in table.rows:
            cells: dict[Column, Cell] = {}
            for name, value in row.values.items():
                for column, number in fitting[name].items():
                    cell = Cell(value, variant=_other(table.columns[name], number))
                    # Of two columns of a table that fit, the one of the same variant counts.
                    if column not in cells or (cells[column].variant and not cell.variant):
                        cells[column] = cell
            if cells:
                told = ", ".join(f"{key} {value}" for key, value in row.settings.items())
                source = f"{table.document}, {table.table}"
                if row.taken_from:
                    source += f", from {row.taken_from}"
                lines.append(Line(row.model, told, source, cells))
    return lines


def _fits(card: ColumnCard, number: _Number) -> bool:
    result, score = number.found.result, number.score
    # Images of a class that was not learnt from the same data set are another task.
    if (
        result.query_dataset != result.dataset
        or card.protocol != result.protocol
        or card.metric != score.metric
    ):
        return False
    splits = spellings(result.query_split) | ({result.query_split} - SPLIT_NAMES)
    return (
        card.dataset == dataset_name(result.query_dataset)
        and card.split in splits
        and all(score.settings.get(key) == value for key, value in card.settings.items())
    )


def _other(card: ColumnCard, number: _Number) -> str:
    """Return of what other variant a published number is, or what its document does not tell; empty if of the same."""
    if card.variant != number.found.result.variant:
        return card.variant or "not told"
    untold = [key for key in number.score.settings if key not in card.settings]
    return f"{', '.join(untold)} not told" if untold else ""


def _order(lines: Sequence[Line]) -> Callable[[Column], tuple[int, int, str, str, str]]:
    often: dict[Column, int] = {}
    for line in lines:
        for column in line.cells:
            often[column] = often.get(column, 0) + 1
    # What a protocol tells first, before the rest of any.
    of_protocol: dict[tuple[str, str], list[Column]] = {}
    for column in often:
        of_protocol.setdefault((column.protocol, column.dataset), []).append(column)
    place = {column: number for columns in of_protocol.values() for number, column in enumerate(columns)}
    return lambda column: (-often[column], place[column], column.protocol, column.dataset, column.conditions)


def _rank(line: Line, column: Column | None) -> tuple[bool, float, bool, str, str, str]:
    cell = None if column is None else line.cells.get(column)
    value = 0.0 if cell is None else -cell.value
    return cell is None, value, line.is_published, line.model, line.source, line.told


def _weights(result: Result) -> str:
    branch = f"{result.branch}, " if result.branch else ""
    return f"{branch}{result.weights_sha256[:SHOWN_OF_A_HASH]}"


def _short(key: str, value: Any) -> str:
    if key == alike.SCORED or key.startswith("images of "):
        return str(value)[:SHOWN_OF_A_HASH]
    if isinstance(value, list | tuple):
        return "/".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
