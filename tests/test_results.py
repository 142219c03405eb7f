from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest

from carp_eval import results
from carp_eval.cards import loading
from carp_eval.data.source import spellings
from carp_eval.results import Score


def published(score, **changed):
    asked = {
        "models": {"carp-resnet50-400ep"},
        "protocol": "knn",
        "variant": "dino",
        "dataset": "imagenet",
        "splits": spellings("validation"),
    }
    return results.published_for(loading.published(), score, **(asked | changed))


def test_documents_that_disagree_both_stand_beside_a_score():
    found = published(Score(metric="top1", value=67.0, settings={"k": 20}))
    assert {(known.document, known.value) for known in found} >= {
        ("carp-paper", 66.1),
        ("carp-weights-page", 67.6),
    }
    by_document = {known.document: known for known in found}
    assert by_document["carp-paper"].delta == pytest.approx(0.9)
    assert by_document["carp-paper"].same_variant


@pytest.mark.parametrize(
    "changed",
    [
        {"splits": spellings("train")},
        {"dataset": "imagenette"},
        {"models": {"somebody-else"}},
        {"protocol": "cluster"},
    ],
)
def test_numbers_of_something_else_stay_away(changed):
    assert published(Score(metric="top1", value=67.0, settings={"k": 20}), **changed) == ()


def test_other_settings_and_metrics_stay_away():
    # The weights' page does not tell its k, and so stands beside any, marked as of no told variant.
    found = published(Score(metric="top1", value=67.0, settings={"k": 7}))
    assert [(known.document, known.same_variant) for known in found] == [("carp-weights-page", False)]
    assert published(Score(metric="mean_per_class", value=67.0, settings={"k": 20})) == ()


def test_another_variant_is_shown_and_marked():
    found = published(Score(metric="top1", value=67.0, settings={"k": 20}), variant="instdisc")
    assert found
    assert not any(known.same_variant for known in found)


def test_a_split_has_all_its_names():
    assert spellings("validation") == spellings("val") == {"validation", "val", "valid", "dev"}
    assert spellings("strong") == {"strong"}


def test_results_that_end_in_the_same_second_keep_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    record = results.Result(
        protocol="knn",
        variant="dino",
        card={},
        card_sha256="",
        model="m",
        branch="",
        layer="pool",
        weights_sha256="",
        dataset="digits",
        query_dataset="digits",
        bank_split="train",
        query_split="test",
        data={},
        banks={},
        preprocessing={},
        counts={},
        scores=(),
        seed=0,
        device="cpu",
        seconds=1.0,
        **(results.circumstances() | {"finished": "2026-11-21T10:00:00+00:00"}),
    )

    def save(number):
        return results.save(
            record.model_copy(update={"seed": number}), tmp_path, predictions={"index": [number]}
        )

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(save, range(24)))
    assert len(set(paths)) == 24
    assert {results.load(path).seed for path in paths} == set(range(24))
    assert all(pq.read_table(path.with_suffix(".parquet"))["index"].to_pylist() for path in paths)
