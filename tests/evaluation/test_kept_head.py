import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CheckpointError, StorageError
from carp_eval.evaluation import kept_head
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.features.bank import Bank

GRID = {"learning_rates": [0.1, 1.0], "weight_decays": [0.0], "epochs": 5, "batch_size": 16}
C = {"number": 2, "max_iter": 30}
CROPS = {"epochs": 8, "batch_size": 16, "optimiser": "sgd", "learning_rate": 300.0}


def scored(tmp_path, variant, dataset, **changes):
    """Return the record of a linear probe on a random network, and where it is."""
    card = loading.protocol_card("linear", variant, changes)
    settings = Settings(num_workers=0, device="cpu", bank_home=tmp_path / "banks")
    return evaluate(
        open_model("random:digits"),
        card,
        dataset=f"folder:{dataset}",
        settings=settings,
        output=tmp_path / "results",
        leaks="ignore",
    )


def features_of(tmp_path, record, split="test"):
    """Return a split's banked features, in float64."""
    for path in (tmp_path / "banks").glob("*/bank.json"):
        bank = Bank.open(path.parent)
        if bank.fingerprint.sha256 == record.banks[split]:
            return bank.features().double().numpy()
    raise AssertionError(split)


def logits_by_hand(features, path, scaling):
    """Apply what the file holds with nothing but what its metadata says."""
    tensors = {name: value.double().numpy() for name, value in load_file(path).items()}
    assert set(tensors) == {"weight", "bias"} | ({"mean", "scale"} if scaling == "standardised" else set())
    if scaling == "unit":
        features = features / np.sqrt((features**2).sum(axis=1, keepdims=True))
    if scaling == "standardised":
        features = (features - tensors["mean"]) / tensors["scale"]
    return features @ tensors["weight"].T + tensors["bias"]


@pytest.fixture
def two_classes(digit_folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "two" / split).mkdir(parents=True)
        for name in ("0", "1"):
            (tmp_path / "two" / split / name).symlink_to(digit_folder / split / name)
    return tmp_path / "two"


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("cached-grid", GRID | {"scaling": "standardised"}),
        ("cached-grid", GRID | {"scaling": "unit", "learning_rates": [30.0], "epochs": 60}),
        ("cached-grid", GRID | {"scaling": "plain", "learning_rates": [1000.0], "epochs": 60}),
        ("logreg", C),
        ("logreg", C | {"scaling": "standardised", "dtype": "float32"}),
        ("carp-code", CROPS),
    ],
)
def test_the_kept_head_gives_the_predictions_of_the_record(
    variant, changes, digit_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    record, path = scored(tmp_path, variant, digit_folder, **changes)
    file = path.with_suffix(".safetensors")
    features = features_of(tmp_path, record)
    predicted = pq.read_table(path.with_suffix(".parquet"))["predicted"].to_numpy()
    assert len(set(predicted)) > 1
    with safe_open(file, framework="np") as opened:
        told = json.loads(opened.metadata()["carp"])
    logits = logits_by_hand(features, file, told["scaling"])
    assert logits.argmax(axis=1).tolist() == predicted.tolist()
    kept = kept_head.read(file)
    ours = kept.logits(torch.from_numpy(features).float())
    assert np.abs(ours.numpy() - logits).max() < 1e-4 * np.abs(logits).max()
    assert told["class_names"] == ["0", "1", "2", "3"]
    assert told["settings"] == dict(record.scores[0].settings)
    assert told["weights_sha256"] == record.weights_sha256
    assert told["card_sha256"] == record.card_sha256


def test_of_two_classes_both_have_a_logit(two_classes, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    record, path = scored(tmp_path, "logreg", two_classes, **C)
    kept = kept_head.read(path.with_suffix(".safetensors"))
    assert kept.weight.shape == (2, 256)
    logits = kept.logits(torch.from_numpy(features_of(tmp_path, record)).float())
    predicted = pq.read_table(path.with_suffix(".parquet"))["predicted"].to_pylist()
    assert logits.argmax(dim=1).tolist() == predicted
    assert set(predicted) == {0, 1}


def test_the_same_probe_gives_the_same_bytes(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    files = [
        scored(tmp_path, "cached-grid", digit_folder, **GRID)[1].with_suffix(".safetensors").read_bytes()
        for _ in range(2)
    ]
    assert files[0] == files[1]


def test_protocols_without_a_head_leave_no_file(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    card = loading.protocol_card("knn", "dino", {"k": [5]})
    _, path = evaluate(
        open_model("random:digits"),
        card,
        dataset=f"folder:{digit_folder}",
        settings=Settings(num_workers=0, device="cpu"),
        output=tmp_path / "results",
        leaks="ignore",
    )
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".parquet"]


def test_a_disk_that_fills_up_while_the_predictions_are_written_leaves_no_head(
    digit_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="the disk is full"):
        scored(tmp_path, "cached-grid", digit_folder, **GRID)
    assert not list((tmp_path / "results").iterdir())


@pytest.fixture
def head_file(digit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return scored(tmp_path, "cached-grid", digit_folder, **GRID)[1].with_suffix(".safetensors")


def test_files_that_are_no_head_are_refused(head_file, tmp_path):
    tensors = load_file(head_file)
    with safe_open(head_file, framework="np") as opened:
        metadata = opened.metadata()
    path = tmp_path / "bad.safetensors"

    def refused(content, told, match):
        save_file(content, path, metadata=told)
        with pytest.raises(CheckpointError, match=match):
            kept_head.read(path)

    refused(tensors, None, "is no head")
    refused(tensors, {"carp": "[]"}, "is no head")
    refused(tensors, {"carp": json.dumps(json.loads(metadata["carp"]) | {"version": 2})}, "of version 2")
    refused({"weight": tensors["weight"]}, metadata, "is damaged")
    refused(tensors | {"bias": tensors["bias"][:2].clone()}, metadata, "is damaged")
    refused(tensors | {"mean": torch.zeros(3)}, metadata, "is damaged")
    path.write_bytes(head_file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        kept_head.read(path)
    with pytest.raises(CheckpointError, match="there is no head"):
        kept_head.read(tmp_path / "absent.safetensors")
