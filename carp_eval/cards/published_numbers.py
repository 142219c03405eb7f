"""What was published of one model, out of all tables."""

from collections.abc import Collection, Iterable, Sequence

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.published import PublishedCard


class PublishedNumber(Frozen):
    """One number of a table, with all that the table says of it.

    Attributes:
        model: The model, as the table's row names it.
        protocol: The kind of protocol.
        variant: The protocol's variant; empty where the document does not tell.
        dataset: The data set, as the data table names it.
        split: The split that was scored.
        metric: The metric, as results name it.
        settings: What else tells the column from its neighbours: `{k: 20}`.
        of_model: What the row says of the model: epochs, batch size, crops.
        value: In percent, where the metric is a share.
        document: The document's short name.
        table: The table in it.
        taken_from: The document that the table took the number from; empty for its own.
    """

    model: str
    protocol: str
    variant: str
    dataset: str
    split: str
    metric: str
    settings: dict[str, str | int | float]
    of_model: dict[str, str | int | float]
    value: float
    document: str
    table: str
    taken_from: str


def numbers_of(tables: Iterable[PublishedCard], models: Collection[str]) -> list[PublishedNumber]:
    """Return every number that tables have for a model.

    Args:
        tables: What was published.
        models: Every name under which the tables may have the model.
    """
    return [
        PublishedNumber(
            model=row.model,
            protocol=column.protocol,
            variant=column.variant or "",
            dataset=column.dataset,
            split=column.split,
            metric=column.metric,
            settings=column.settings,
            of_model=row.settings,
            value=row.values[name],
            document=table.document,
            table=table.table,
            # A number that a table's authors computed themselves is not the cited document's.
            taken_from="" if name in row.recomputed else row.taken_from,
        )
        for table in tables
        for row in table.rows
        if row.model in models
        for name, column in table.columns.items()
        if name in row.values
    ]


def highest(numbers: Sequence[PublishedNumber], *, protocol: str, dataset: str) -> PublishedNumber | None:
    """Return the highest top-1 accuracy among numbers, or None where there is none.

    Args:
        numbers: Numbers of one model.
        protocol: The kind of protocol.
        dataset: The data set.
    """
    fitting = [
        number
        for number in numbers
        if (number.protocol, number.dataset, number.metric) == (protocol, dataset, "top1")
    ]
    return max(fitting, key=lambda number: number.value, default=None)
