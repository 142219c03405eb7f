"""Published numbers: one file per table of a document, every number in it."""

from pydantic import model_validator

from carp_eval.cards.frozen import Card, Frozen


class ColumnCard(Frozen):
    """What one column of a table measures.

    Attributes:
        protocol: The kind of protocol, as `carp eval` names it.
        dataset: The data set, as the data table names it.
        split: The split that was scored.
        metric: The metric, as results name it: `top1`, `top5`, `map`, `nmi`.
        variant: The protocol's variant, where the document tells it.
        settings: What else tells the column from its neighbours: `{k = 20}`, `{n = 4}`.
    """

    protocol: str
    dataset: str
    split: str
    metric: str
    variant: str | None = None
    settings: dict[str, str | int | float] = {}


class RowCard(Frozen):
    """One row: a model and its numbers.

    Attributes:
        model: The model, by its zoo name where the zoo has it.
        settings: What the row says of the model: epochs, batch size, an ablation's value.
        values: Percent, by column; a dash in the document is left out here.
        recomputed: Columns whose number the document's authors computed from others' released weights.
        taken_from: The document the row was taken from, where the table cites it.
    """

    model: str
    settings: dict[str, str | int | float] = {}
    values: dict[str, float]
    recomputed: tuple[str, ...] = ()
    taken_from: str = ""


class PublishedCard(Card):
    """One table of a document.

    Attributes:
        document: The document's short name: `carp-paper`, `carp-poster`, `carp-weights-page`.
        table: The table's name in it.
        columns: What is measured, by the short names rows use.
        rows: The numbers.
        notes: What a reader must know: a misprint, a dagger.
    """

    document: str
    table: str
    columns: dict[str, ColumnCard]
    rows: tuple[RowCard, ...]
    notes: str = ""

    @model_validator(mode="after")
    def _columns_exist(self) -> "PublishedCard":
        for row in self.rows:
            unknown = (set(row.values) | set(row.recomputed)) - set(self.columns)
            if unknown:
                raise ValueError(
                    f"row {row.model} has values for unknown columns: {', '.join(sorted(unknown))}"
                )
        return self
