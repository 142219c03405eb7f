import errno
import json
from pathlib import Path

import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import StorageError, UsageError
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate, for_dataset


def splits(kind, variant, dataset, *, queries=None, **changes):
    card = for_dataset(loading.protocol_card(kind, variant, changes), dataset, queries)
    return card.bank_split, card.query_split


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("digits", ("train", "test")),
        ("pets", ("trainval", "test")),
        ("flowers102", ("train", "test")),
        ("imagenet", ("train", "validation")),
        ("folder:somewhere", ("train", "test")),
        # A copy elsewhere is the same data set.
        ("aircraft:somewhere", ("trainval", "test")),
        ("pets:somewhere", ("trainval", "test")),
    ],
)
def test_a_card_that_names_no_splits_takes_those_of_the_field(dataset, expected):
    assert splits("knn", "dino", dataset) == expected


def test_a_card_that_names_its_splits_keeps_them():
    assert splits("knn", "dino", "pets", bank_split="train") == ("train", "test")
    assert splits("cluster", "mteb", "imagenet") == ("test", "test")
    assert splits("copydays", "copies", "pets") == ("original", "strong")
    assert splits("retrieval", "carp", "roxford5k") == ("database", "query")


def test_queries_of_another_data_set_have_its_split():
    assert splits("knn", "dino", "imagenet", queries="imagenet-r") == ("train", "test")
    assert splits("knn", "dino", "imagenet", queries="imagenet-real") == ("train", "validation")


def test_what_was_filled_in_is_not_filled_in_again_and_changes_the_hash():
    card = loading.protocol_card("knn", "dino")
    filled = for_dataset(card, "pets")
    assert for_dataset(filled, "imagenet") == filled
    assert loading.fingerprint(filled) != loading.fingerprint(card)


def test_the_record_says_what_was_run(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    told = []
    settings = Settings(
        num_workers=0, progress=lambda what: lambda done, total: told.append((what, done, total))
    )
    card = loading.protocol_card("knn", "dino", {"k": [5]})
    record, path = evaluate(
        open_model("random:digits"),
        card,
        dataset=f"folder:{digit_folder}",
        settings=settings,
        output=tmp_path,
    )
    assert record.card_sha256 == loading.fingerprint(card)
    assert set(record.data) == set(record.banks) == {"train", "test"}
    assert record.counts["bank"] == 96
    assert record.counts["queries"] == 40
    assert ("neighbours", 40, 40) in told
    assert json.loads(path.read_text())["card"]["k"] == [5]


def test_a_results_folder_that_cannot_be_is_told_before_the_work(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("")
    card = loading.protocol_card("knn", "dino", {"k": [5]})
    with pytest.raises(StorageError, match="a file of that name is there"):
        evaluate(
            open_model("random:digits"), card, dataset=f"folder:{digit_folder}", output=tmp_path / "file"
        )
    assert not (tmp_path / "home").exists()


def test_a_disk_that_fills_up_leaves_no_part_of_a_result(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "write_text", full)
    card = loading.protocol_card("knn", "dino", {"k": [5]})
    with pytest.raises(StorageError, match="the disk is full"):
        evaluate(
            open_model("random:digits"),
            card,
            dataset=f"folder:{digit_folder}",
            settings=Settings(num_workers=0),
            output=tmp_path / "results",
        )
    assert not list((tmp_path / "results").iterdir())


def full(path, text, **_):
    if path.name.startswith(".knn@dino"):
        raise OSError(errno.ENOSPC, "No space left on device")
    return path.write_bytes(text.encode())


def test_a_model_at_another_layer_is_refused():
    card = loading.protocol_card("knn", "swav")
    with pytest.raises(UsageError, match="judges the layer 'projection'; the model gives 'pool'"):
        evaluate(open_model("random:digits"), card)
