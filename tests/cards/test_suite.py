import pytest

from carp_eval.cards import loading, shelf
from carp_eval.cards.suite import SUITES, suite
from carp_eval.data.table import TABLE
from carp_eval.errors import CardError, UnknownNameError
from carp_eval.evaluation.runners import RUNNERS, OnBanks
from carp_eval.evaluation.running import for_dataset

NAMES = shelf.names(SUITES)
ENTRIES = [
    pytest.param(entry, id=f"{name}-{number}-{entry.protocol}")
    for name in NAMES
    for number, entry in enumerate(suite(name).entries)
]


def test_all_suites_are_there():
    assert {
        "carp-table1",
        "carp-table2",
        "transfer-knn",
        "clustering",
        "fewshot",
        "retrieval",
        "robustness",
        "quick",
    } <= set(NAMES)
    assert len(ENTRIES) > 30


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_is_a_protocol_that_can_run(entry):
    card = entry.card()
    runner = RUNNERS[type(card)]
    for name in (entry.dataset, entry.queries):
        assert name is None or name in TABLE
    assert entry.queries is None or isinstance(runner, OnBanks)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("quick", "robustness")])
def test_every_entry_of_a_published_table_has_published_numbers(name):
    """Of its protocol, data set, split and shown metric: or the table would never show a delta."""
    from carp_eval.data.source import resolve, spellings

    columns = [column for table in loading.published() for column in table.columns.values()]
    for entry in suite(name).entries:
        if entry.variant in ("revisitop", "carp-gtsrb100"):
            continue
        card = entry.card()
        there = TABLE[entry.dataset].splits
        split = (
            spellings(resolve(card.query_split, tuple(there), name=entry.dataset))
            if entry.kind != "copydays"
            else {"strong"}
        )
        shown = {one.metric for one in entry.shown or suite(name).shown}
        found = [
            column
            for column in columns
            if (column.protocol, column.dataset) == (entry.kind, entry.dataset) and column.split in split
        ]
        assert shown & {column.metric for column in found}, entry


def test_the_poster_averages_eight_sets_at_four_k():
    card = suite("transfer-knn")
    assert len({entry.dataset for entry in card.entries}) == 8
    assert [average.shown.settings["k"] for average in card.averages] == [10, 20, 100, 200]
    learnt = {entry.dataset: for_dataset(entry.card(), entry.dataset).bank_split for entry in card.entries}
    # Of flowers train alone, as the authors have it, though there are as many images for validation.
    assert {name for name, split in learnt.items() if split == "trainval"} == {"pets", "aircraft"}
    assert set(learnt.values()) == {"train", "trainval"}


def test_a_broken_suite_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('version = 1\nsummary = "s"\nentries = []\n')
    with pytest.raises(CardError, match="entries"):
        suite(str(path))
    path.write_text('version = 1\nsummary = "s"\n[[entries]]\nkind = "knn"\nvariant = "dinoo"\n')
    with pytest.raises(UnknownNameError, match="Did you mean dino"):
        suite(str(path)).entries[0].card()
    with pytest.raises(UnknownNameError, match="Did you mean quick"):
        suite("quik")
