"""The published numbers: typed again here from the documents, and held against each other where two agree."""

import re
import tomllib
from collections import Counter

import pytest

from carp_eval.cards import loading
from carp_eval.cards.published import PublishedCard
from carp_eval.errors import CardError

CARDS = dict(zip(loading.names(loading.PUBLISHED), loading.published(), strict=True))

# Files, numbers in them table by table, and the sum of the numbers, added up from the documents' own text.
EXPECTED = {
    "carl-paper": (3, 35 + 98 + 40, 5779.97),
    "carp-linear-log": (1, 2, 167.068),
    "carp-paper": (7, 63 + 24 + 6 + 4 + 20 + 6 + 8, 8668.12),
    "carp-poster": (5, 108 + 84 + 72 + 20 + 6, 13859.3),
    "carp-weights-page": (1, 8, 560.3),
    "pcl-repository": (1, 12, 804.8),
    "swav-supplement": (11, 1 + 8 + 11 + 37 + 24 + 18 + 8 + 5 + 6 + 4 + 3, 8338.9),
    "vissl-repository": (1, 6, 348.01),
}

# Kinds that `carp eval` runs, and two that stand here only so that no number of a table is left out.
PROTOCOLS = {"knn", "linear", "semisup", "voc07", "fewshot", "cluster", "retrieval", "copydays", "finetune"}
ONLY_PUBLISHED = {"detection", "cost"}
NOT_PERCENT = {"minutes", "gigabytes"}

# Of every table its first and its last cell, as printed, and some between: file, model, settings that pick
# the row, column, value.
SPOTS = [
    ("carl-paper-table-1", "carl-resnet18-150ep", {"batch_size": 64, "prototypes": 10}, "top1", 35.34),
    ("carl-paper-table-1", "carl-resnet18-150ep", {"batch_size": 512, "prototypes": 500}, "top1", 42.56),
    ("carl-paper-table-1", "carl-resnet18-150ep", {"batch_size": 1024, "prototypes": 10000}, "top1", 40.69),
    ("carl-paper-table-2", "supervised-resnet18-100ep", {}, "cifar10", 87.76),
    ("carl-paper-table-2", "moco-v2-resnet18-200ep", {}, "stl10_std", 1.28),
    ("carl-paper-table-2", "pcl-resnet18-200ep", {}, "cifar100_std", 7.6),
    ("carl-paper-table-2", "carl-resnet18-100ep", {}, "stl10_std", 1.2),
    ("carl-paper-table-2", "carl-resnet18-200ep", {}, "imagenet64", 31.86),
    ("carl-paper-table-3", "supervised-resnet18", {}, "cifar100", 38.11),
    ("carl-paper-table-3", "byol-resnet18-200ep", {}, "stl10_1", 36.64),
    ("carl-paper-table-3", "simclr-resnet18-200ep", {}, "cifar10_std", 3.0),
    ("carl-paper-table-3", "carl-resnet18-200ep", {}, "stl10_100_std", 0.37),
    ("carp-linear-log-best-epoch", "carp-resnet50-400ep-mc", {}, "top1", 75.006),
    ("carp-linear-log-best-epoch", "carp-resnet50-400ep-mc", {}, "top5", 92.062),
    ("carp-paper-table-1", "supervised-resnet50", {}, "top1_cited", 76.5),
    ("carp-paper-table-1", "infomin-resnet50-200ep", {}, "voc07", 81.2),
    ("carp-paper-table-1", "swav-resnet50-400ep", {}, "voc07", 86.7),
    ("carp-paper-table-1", "carp-resnet50-800ep", {}, "top5", 91.1),
    ("carp-paper-table-1", "byol-resnet50-1000ep", {}, "knn_cited", 66.6),
    ("carp-paper-table-2", "supervised-resnet50", {}, "top5_1_cited", 48.4),
    ("carp-paper-table-2", "carp-resnet50-200ep", {}, "top5_10", 87.1),
    ("carp-paper-table-2", "barlow-twins-resnet50-1000ep", {}, "top5_10_cited", 89.3),
    ("carp-paper-table-3", "carp-resnet50-50ep", {"prototypes": 1024}, "knn", 48.81),
    ("carp-paper-table-3", "carp-resnet50-50ep", {"prototypes": 262144}, "knn", 51.31),
    ("carp-paper-table-4", "carp-resnet50-50ep", {"batch_size": 128}, "knn", 46.56),
    ("carp-paper-table-4", "carp-resnet50-50ep", {"batch_size": 1024}, "knn", 56.63),
    ("carp-paper-table-5", "carp-resnet50-50ep", {"block_size": 32, "teacher": "ema"}, "knn", 49.56),
    ("carp-paper-table-5", "carp-resnet50-50ep", {"block_size": 64, "teacher": "ema"}, "knn", 50.75),
    ("carp-paper-table-5", "carp-resnet50-50ep", {"block_size": 16384, "teacher": "none"}, "knn", 47.25),
    ("carp-paper-table-5", "carp-resnet50-50ep", {"block_size": 65536, "teacher": "none"}, "knn", 0.11),
    ("carp-paper-table-6", "carp-resnet50-50ep", {"momentum": 0.0}, "knn", 51.0),
    ("carp-paper-table-6", "carp-resnet50-50ep", {"momentum": 0.99, "final_momentum": 1.0}, "knn", 51.3),
    ("carp-paper-table-7", "carp-resnet50-25ep", {"partition": "constant"}, "knn", 45.15),
    ("carp-paper-table-7", "carp-resnet50-100ep", {"partition": "random"}, "knn", 56.38),
    ("carp-poster-clustering-evaluation", "pcl-v2-resnet50", {}, "imagenet_nmi", 69.7),
    ("carp-poster-clustering-evaluation", "dino-resnet50", {}, "cifar100_ami", 40.4),
    ("carp-poster-clustering-evaluation", "carp-resnet50", {}, "gtsrb_ari", 19.6),
    ("carp-poster-copy-detection", "random-resnet50", {}, "map", 25.7),
    ("carp-poster-copy-detection", "carp-resnet50-400ep-mc", {}, "map", 84.0),
    ("carp-poster-few-shot-classification", "pcl-v2-resnet50-200ep", {}, "voc07_n1", 47.9),
    ("carp-poster-few-shot-classification", "triplet-resnet50-980ep", {}, "inat18_full", 41.4),
    ("carp-poster-few-shot-classification", "carp-resnet50-200ep-mc", {}, "inat18_n8", 32.7),
    ("carp-poster-few-shot-classification", "carp-resnet50-400ep-mc", {}, "inat18_full", 42.6),
    ("carp-poster-image-retrieval", "supervised", {}, "roxford5k_medium", 49.8),
    ("carp-poster-image-retrieval", "supervised", {}, "roxford5k_hard", 8.5),
    ("carp-poster-image-retrieval", "carp-resnet50-200ep", {}, "rparis6k_hard", 30.4),
    ("carp-poster-transfer-learning-k-nn", "obow-resnet50-200ep-mc", {}, "pets", 57.3),
    ("carp-poster-transfer-learning-k-nn", "carp-resnet50-400ep", {}, "gtsrb", 75.3),
    ("carp-poster-transfer-learning-k-nn", "carp-resnet50-400ep-mc", {}, "mean_k200", 56.0),
    ("carp-weights-page-pre-trained-models", "carp-resnet50-100ep-mc", {}, "top1", 72.5),
    ("carp-weights-page-pre-trained-models", "carp-resnet50-400ep-mc", {}, "knn", 67.7),
    ("pcl-repository-linear-svm-evaluation-on-voc", "pcl-v1-resnet50-200ep", {}, "n1", 46.9),
    ("pcl-repository-linear-svm-evaluation-on-voc", "pcl-v2-resnet50-200ep", {}, "full", 85.4),
    ("swav-supplement-section-a-3", "swav-resnet50-800ep-mc", {}, "top1", 75.3),
    ("swav-supplement-table-1", "simclr-resnet50-100ep", {}, "time", 4 * 60),
    ("swav-supplement-table-1", "swav-resnet50-100ep", {}, "time", 4 * 60 + 9),
    ("swav-supplement-table-1", "swav-resnet50-100ep-mc", {}, "memory", 12.8),
    ("swav-supplement-table-2", "supervised-efficientnet-b7", {"parameters_millions": 66}, "top1", 84.4),
    ("swav-supplement-table-2", "swav-resnet50w5-400ep-mc", {"parameters_millions": 586}, "top1", 78.5),
    ("swav-supplement-table-3", "supervised-resnet50", {}, "places205_cited", 53.2),
    ("swav-supplement-table-3", "bownet-resnet50", {}, "voc0712_ap50", 81.3),
    ("swav-supplement-table-3", "swav-resnet50-800ep-mc", {}, "inat18", 48.6),
    ("swav-supplement-table-3", "swav-resnet50-800ep-mc", {}, "coco_ap", 42.1),
    ("swav-supplement-table-4", "supervised-resnet50", {}, "ap", 53.5),
    ("swav-supplement-table-4", "swav-resnet50-800ep-mc", {}, "ap75", 62.7),
    ("swav-supplement-table-5", "supervised-resnet50", {}, "ap", 40.8),
    ("swav-supplement-table-5", "swav-resnet50-800ep-mc", {}, "ap_large", 60.9),
    ("swav-supplement-table-6", "random-resnet50", {}, "top1_n13", 25.4),
    ("swav-supplement-table-6", "swav-ig1b-resnet50", {}, "top5_n128", 87.2),
    ("swav-supplement-table-7", "npid-resnet50", {}, "knn200_cited", 46.5),
    ("swav-supplement-table-7", "swav-resnet50-800ep-mc", {}, "knn20", 59.2),
    ("swav-supplement-table-7", "swav-resnet50-800ep-mc", {}, "knn200", 55.8),
    ("swav-supplement-table-8", "swav-resnet50-400ep-mc-160px", {"prototypes": 300}, "top1", 72.8),
    ("swav-supplement-table-8", "swav-resnet50-400ep-mc-160px", {"prototypes": 100000}, "top1", 73.8),
    ("swav-supplement-table-9", "swav-resnet50-400ep-mc-160px", {"prototypes": "fixed"}, "top1", 73.1),
    ("swav-supplement-table-9", "swav-resnet50-400ep-mc-160px", {"assignment": "hard"}, "top1", 73.3),
    ("swav-supplement-table-10", "swav-resnet50-400ep-mc-160px", {"sinkhorn_iterations": 3}, "top1", 73.9),
    ("swav-supplement-table-10", "swav-resnet50-400ep-mc-160px", {"sinkhorn_iterations": 30}, "top1", 73.7),
    ("vissl-repository-instance-retrieval", "supervised-resnet50", {}, "roxford5k_easy", 72.1),
    ("vissl-repository-instance-retrieval", "supervised-resnet50", {}, "rparis6k_hard", 45.12),
]  # fmt: skip


def number(file: str, model: str, column: str, **settings: object) -> float:
    """Return the one number that a file has for a model, the settings given and a column."""
    found = [
        row.values[column]
        for row in CARDS[file].rows
        if row.model == model and settings.items() <= row.settings.items() and column in row.values
    ]
    assert len(found) == 1, f"{file} has {len(found)} numbers for {model} {settings} {column}"
    return found[0]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@pytest.mark.parametrize(("file", "model", "settings", "column", "value"), SPOTS)
def test_numbers_are_those_of_the_document(file, model, settings, column, value):
    assert number(file, model, column, **settings) == value


def test_every_file_has_numbers_typed_again_here():
    spots = Counter(spot[0] for spot in SPOTS)
    few = {
        file
        for file, card in CARDS.items()
        if spots[file] < min(2, sum(len(row.values) for row in card.rows))
    }
    assert not few


def test_files_and_numbers_per_document_are_complete():
    found = {}
    for document in {card.document for card in CARDS.values()}:
        cards = [card for card in CARDS.values() if card.document == document]
        values = [value for card in cards for row in card.rows for value in row.values.values()]
        found[document] = (len(cards), len(values), pytest.approx(sum(values), abs=1e-6))
    assert found == EXPECTED


def test_files_are_named_after_document_and_table():
    assert {file: f"{slug(card.document)}-{slug(card.table)}" for file, card in CARDS.items()} == {
        file: file for file in CARDS
    }


def test_both_sources_of_carp_400_stand():
    paper, page = "carp-paper-table-1", "carp-weights-page-pre-trained-models"
    assert [number(paper, "carp-resnet50-400ep", column) for column in ("top1", "knn")] == [72.1, 66.1]
    assert [number(page, "carp-resnet50-400ep", column) for column in ("top1", "knn")] == [73.0, 67.6]


@pytest.mark.parametrize("file", CARDS)
def test_a_table_is_sound(file):
    card = CARDS[file]
    assert card.rows
    assert card.summary
    assert card.source
    for row in card.rows:
        assert row.values, f"{row.model} has no numbers"
        assert set(row.recomputed) <= set(row.values)
        for column, value in row.values.items():
            assert value >= 0
            assert value <= 100 or card.columns[column].metric in NOT_PERCENT
        # `supervised` alone is the poster's trunk of unknown architecture.
        assert re.fullmatch(r"supervised|[a-z0-9]+(-[a-z0-9]+)+", row.model)

    cells = Counter(
        (row.model, column, tuple(sorted(row.settings.items()))) for row in card.rows for column in row.values
    )
    assert max(cells.values()) == 1, f"printed twice: {cells.most_common(1)}"

    unused = set(card.columns) - {column for row in card.rows for column in row.values}
    assert not unused
    measured = Counter(column.model_dump_json() for column in card.columns.values())
    assert max(measured.values()) == 1, f"two columns measure the same: {measured.most_common(1)}"
    for column in card.columns.values():
        assert column.protocol in PROTOCOLS | ONLY_PUBLISHED
        assert column.variant is None or column.protocol in PROTOCOLS


def test_cited_columns_claim_no_variant():
    for card in CARDS.values():
        for name, column in card.columns.items():
            if name.endswith("_cited"):
                assert column.variant is None
                assert column.metric == card.columns[name.removesuffix("_cited")].metric


def test_recomputed_cells_are_the_daggers():
    def daggers(file: str) -> dict[str, tuple[str, ...]]:
        return {row.model: row.recomputed for row in CARDS[file].rows if row.recomputed}

    both = ("knn", "voc07")
    assert daggers("carp-paper-table-1") == {
        "infomin-resnet50-200ep": both,
        "sela-v2-resnet50-400ep": both,
        "deepcluster-v2-resnet50-400ep": both,
        "swav-resnet50-400ep": both,
        "infomin-resnet50-800ep": both,
        "barlow-twins-resnet50-1000ep": both,
    }
    linear = ("places205", "voc07", "inat18")
    assert daggers("swav-supplement-table-3") == {
        "moco-v1-resnet50": linear,
        "simclr-resnet50": linear,
        "moco-v2-resnet50": (*linear, "coco_ap"),
    }


def test_posters_mean_at_20_is_the_mean_of_its_eight_sets():
    rows = CARDS["carp-poster-transfer-learning-k-nn"].rows
    assert len(rows) == 9
    for row in rows:
        sets = [value for column, value in row.values.items() if not column.startswith("mean_")]
        assert len(sets) == 8
        # The mean of eight numbers, each rounded to 0.1, is itself rounded to 0.1.
        assert sum(sets) / 8 == pytest.approx(row.values["mean_k20"], abs=0.1)


def test_tables_that_repeat_a_number_agree():
    assert number("carp-paper-table-1", "pcl-v2-resnet50-200ep", "voc07_cited") == 85.4
    poster = CARDS["carp-poster-few-shot-classification"].rows[0]
    repository = CARDS["pcl-repository-linear-svm-evaluation-on-voc"].rows[1]
    assert poster.model == repository.model == "pcl-v2-resnet50-200ep"
    for short in ("n1", "n2", "n4", "n8", "n16", "full"):
        assert poster.values[f"voc07_{short}"] == repository.values[short]

    transfer = {row.model: row.values for row in CARDS["swav-supplement-table-3"].rows}
    for file, metric, column in (("4", "ap50", "voc0712_ap50"), ("5", "ap", "coco_ap")):
        rows = CARDS[f"swav-supplement-table-{file}"].rows
        again = [(row.values[metric], transfer[row.model][column]) for row in rows if row.model in transfer]
        assert len(again) == {"4": 7, "5": 3}[file]
        assert all(here == there for here, there in again)

    assert number("carp-paper-table-4", "carp-resnet50-50ep", "knn", batch_size=256) == number(
        "carp-paper-table-5", "carp-resnet50-50ep", "knn", block_size=512, teacher="ema"
    )


def test_the_texts_own_arithmetic_holds():
    # CARL, 5.0.4: better than its competitors by at most 2.43 points of accuracy.
    file = "carl-paper-table-3"
    gain = number(file, "carl-resnet18-200ep", "stl10_100") - number(file, "byol-resnet18-200ep", "stl10_100")
    assert gain == pytest.approx(2.43)
    # CARP, 6.2: a batch of 1024 is ten points above one of 128.
    sizes = [number("carp-paper-table-4", "carp-resnet50-50ep", "knn", batch_size=n) for n in (1024, 128)]
    assert sizes[0] - sizes[1] == pytest.approx(10, abs=0.1)


def test_a_number_for_no_column_is_refused():
    path = loading.folder(loading.PUBLISHED) / "carp-poster-copy-detection.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content["rows"][0]["values"] = {"mpa": 25.7}
    with pytest.raises(CardError, match=r"unknown columns: mpa"):
        loading.check(PublishedCard, content, where="a card")
