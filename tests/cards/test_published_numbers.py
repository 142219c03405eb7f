import pytest

from carp_eval.cards.published import ColumnCard, PublishedCard, RowCard
from carp_eval.cards.published_numbers import highest, numbers_of


def column(protocol, metric="top1", dataset="imagenet", variant=None, **settings):
    return ColumnCard(
        protocol=protocol, dataset=dataset, split="val", metric=metric, variant=variant, settings=settings
    )


ONE = PublishedCard(
    version=1,
    summary="",
    document="one",
    table="Table 1",
    columns={
        "top1": column("linear"),
        "top5": column("linear", "top5"),
        "knn": column("knn", variant="dino", k=20),
        "pets": column("knn", dataset="pets"),
    },
    rows=(
        RowCard(model="ours", settings={"epochs": 100}, values={"top1": 70.0, "top5": 99.0, "knn": 60.0}),
        RowCard(
            model="theirs",
            values={"top1": 80.0, "knn": 90.0, "pets": 95.0},
            recomputed=("knn",),
            taken_from="Them, 2020",
        ),
    ),
)
TWO = ONE.model_copy(
    update={
        "document": "two",
        "rows": (RowCard(model="ours-as-two-calls-it", values={"top1": 71.0, "knn": 50.0}),),
    }
)


def test_numbers_of_a_model_come_from_all_tables_and_all_its_names():
    found = numbers_of([ONE, TWO], {"ours", "ours-as-two-calls-it", "nobody"})
    assert [(number.document, number.protocol, number.metric, number.value) for number in found] == [
        ("one", "linear", "top1", 70.0),
        ("one", "linear", "top5", 99.0),
        ("one", "knn", "top1", 60.0),
        ("two", "linear", "top1", 71.0),
        ("two", "knn", "top1", 50.0),
    ]
    assert found[2].settings == {"k": 20}
    assert found[2].of_model == {"epochs": 100}
    assert [number.variant for number in found[:3]] == ["", "", "dino"]
    assert numbers_of([ONE, TWO], {"our"}) == []


def test_what_a_table_computed_itself_is_not_cited():
    cited = {
        number.protocol: number.taken_from
        for number in numbers_of([ONE], {"theirs"})
        if number.dataset == "imagenet"
    }
    assert cited == {"linear": "Them, 2020", "knn": ""}


@pytest.mark.parametrize(("protocol", "document", "value"), [("linear", "two", 71.0), ("knn", "one", 60.0)])
def test_the_highest_is_of_one_protocol_data_set_and_metric(protocol, document, value):
    numbers = numbers_of([ONE, TWO], {"ours", "ours-as-two-calls-it"})
    best = highest(numbers, protocol=protocol, dataset="imagenet")
    assert best is not None
    assert (best.document, best.value) == (document, value)
    assert highest(numbers, protocol=protocol, dataset="pets") is None
