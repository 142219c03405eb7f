import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from carp_eval import results
from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.publishing import folder
from carp_eval.data import opening
from carp_eval.errors import BankError, CheckpointError, UsageError
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.features.bank import Bank
from carp_eval.models import network
from tests.checkpoints.publishing import scene

FEW = {"head": False, "bank": None, "results": [], "pictures": [], "licence": "mit"}


def stamp(record):
    return record.finished.partition("+")[0].replace("-", "").replace(":", "")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(tmp_path):
    return scene.run(tmp_path / "a-run")


@pytest.fixture
def measured(run, home, digit_folder):
    """Score a run by k-NN and by a linear probe, and return its model, its results and a bank."""
    model = open_model(str(run))
    settings = Settings(num_workers=0, device="cpu")
    scored = []
    grid = {"learning_rates": [1.0], "weight_decays": [0.0], "epochs": 3, "batch_size": 16}
    for kind, variant, changes in (("knn", "dino", {"k": [5]}), ("linear", "cached-grid", grid)):
        record, path = evaluate(
            model,
            loading.protocol_card(kind, variant, changes),
            dataset=f"folder:{digit_folder}",
            settings=settings,
            leaks="ignore",
        )
        scored.append((path, record))
    banks = {Bank.open(path.parent).record.split: path.parent for path in home.glob("banks/*/bank.json")}
    return model, scored, banks["train"]


def test_a_whole_folder_holds_all_that_was_asked_for(measured, digit_folder, tmp_path):
    model, scored, bank = measured
    picture = tmp_path / "Scores (all).png"
    picture.write_bytes(b"a picture")
    into = tmp_path / "out"
    written = folder.prepare(
        model,
        into,
        name="user/digits",
        head=True,
        bank=bank,
        results=scored,
        pictures=[picture],
        licence="apache-2.0",
    )
    paths = [path.relative_to(into).as_posix() for path in written]
    assert paths == sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file())
    knn, linear = (
        f"{record.protocol}@{record.variant}-folder-{digit_folder.name}-{stamp(record)}"
        for _, record in scored
    )
    assert set(paths) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "head.safetensors",
        "recipe.json",
        f"results/{knn}.json",
        f"results/{knn}.parquet",
        f"results/{linear}.json",
        f"results/{linear}.parquet",
        f"probe/{linear}.safetensors",
        "bank/bank.json",
        "bank/features-00000.safetensors",
        "pictures/Scores-all.png",
    }
    assert json.loads((into / "config.json").read_text())["carp"]["files"] == paths
    for name, (_, record) in zip((knn, linear), scored, strict=True):
        published = results.load(into / "results" / f"{name}.json")
        own = {"dataset", "query_dataset", "command", "model"}
        assert published.model_dump(exclude=own) == record.model_dump(exclude=own)
        assert published.dataset == f"folder:{digit_folder.name}"
        assert pq.read_table(into / "results" / f"{name}.parquet").num_rows == 40
    told = [path for path in written if str(digit_folder.parent).encode() in path.read_bytes()]
    assert told == [], "a folder of this machine is told"
    assert not Bank.open(into / "bank").verify()
    assert json.loads((into / "recipe.json").read_text())["prototypes"]["count"] == 32


def test_what_is_published_is_opened_again_with_the_same_features(run, tmp_path):
    model = open_model(str(run))
    folder.prepare(model, tmp_path / "out", name="user/digits", **FEW)
    again = open_model(f"hf:{tmp_path / 'out'}")
    assert torch.equal(scene.features(again), scene.features(model))
    assert (again.weights_sha256, again.branch, again.dataset) == (model.weights_sha256, "teacher", "digits")
    assert again.input == model.input


def test_the_head_and_the_prototypes_are_rebuilt_by_what_their_file_says(run, tmp_path):
    model = open_model(str(run), branch="student")
    folder.prepare(model, tmp_path / "out", name="user/digits", **FEW | {"head": True})
    with safe_open(tmp_path / "out/head.safetensors", framework="pt") as file:
        told, told_names = json.loads(file.metadata()["carp"]), list(file.keys())
        assert {name.partition(".")[0] for name in told_names} == {"head", "prototypes"}
    assert (told["branch"], told["input_dim"], told["trunk_sha256"]) == (
        "student",
        256,
        model.weights_sha256,
    )
    recipe = loading.as_recipe(json.loads(told["recipe"]), where="the head")
    whole = network.build(recipe, seed=9).eval()
    trunk = {f"trunk.{name}": value for name, value in load_file(tmp_path / "out/model.safetensors").items()}
    state = trunk | load_file(tmp_path / "out/head.safetensors")
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    expected = open_model(str(run), branch="student", layer="projection")
    images = scene.images(1, 28)
    with torch.inference_mode():
        assert torch.equal(whole(images), expected.network(images))
    assert state["prototypes.weight"].shape == (32, 8)


def test_the_published_linear_head_gives_the_predictions(measured, tmp_path, digit_folder):
    model, scored, _ = measured
    folder.prepare(model, tmp_path / "out", name="user/digits", **FEW | {"results": scored})
    tensors = {
        name: value.double().numpy()
        for name, value in load_file(next((tmp_path / "out/probe").iterdir())).items()
    }
    images = opening.open_images(f"folder:{digit_folder}", "test")
    pixels = np.stack(
        [np.asarray(images.image(i).convert("L"), dtype=np.float64) for i in range(len(images))]
    )
    given = torch.from_numpy((pixels / 255 - 0.12) / 0.264).float()[:, None]
    features = scene.features(model, given).double().numpy()
    scores = ((features - tensors["mean"]) / tensors["scale"]) @ tensors["weight"].T + tensors["bias"]
    table = pq.read_table(next((tmp_path / "out/results").glob("linear*.parquet")))
    # The bank is of float16, and one image may lie between two classes.
    assert (scores.argmax(axis=1) == table["predicted"].to_numpy()).mean() > 0.95


def test_the_same_model_gives_the_same_bytes(measured, tmp_path):
    model, scored, bank = measured
    made = []
    for number in (1, 2):
        into = tmp_path / f"out{number}"
        asked = FEW | {"head": True, "bank": bank, "results": scored[:: 1 if number == 1 else -1]}
        folder.prepare(model, into, name="user/digits", **asked)
        made.append({path.relative_to(into): path.read_bytes() for path in into.rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_results_of_the_same_name_keep_places_of_their_own(tmp_path, home):
    model = scene.model()
    pairs = [scene.saved(scene.result(model, seed=seed), tmp_path / f"r{seed}") for seed in (1, 2)]
    assert pairs[0][0].name == pairs[1][0].name
    folder.prepare(model, tmp_path / "out", name="a/b", **FEW | {"results": pairs})
    kept = sorted((tmp_path / "out/results").iterdir())
    assert len(kept) == 4
    assert {results.load(path).seed for path in kept if path.suffix == ".json"} == {1, 2}
    assert {path.stem for path in kept if path.suffix == ".parquet"} == {
        path.stem for path in kept if path.suffix == ".json"
    }


def test_what_is_not_the_models_own_is_refused_and_nothing_is_written(measured, run, tmp_path):
    model, scored, bank = measured
    into = tmp_path / "out"
    student = open_model(str(run), branch="student")

    def refused(error, match, of=model, **changes):
        with pytest.raises(error, match=match):
            folder.prepare(of, into, **{"name": "a/b"} | FEW | changes)
        assert not into.exists()

    refused(UsageError, "a card tells of one model's results", student, results=scored)
    refused(BankError, "a bank of other weights", student, bank=bank)
    refused(BankError, "no finished bank", bank=tmp_path)
    refused(UsageError, "no run of `carp train`", dataclasses.replace(model, folder=None), head=True)
    other = dataclasses.replace(model, weights_sha256="0" * 64)
    refused(CheckpointError, "no checkpoint has the weights", other, head=True)
    refused(UsageError, "'projection'", open_model(str(run), layer="projection"))
    refused(UsageError, "there is no file", pictures=[tmp_path / "absent.png"])
    refused(UsageError, "is called USER/NAME", name="a/b c")
    refused(UsageError, "is called USER/NAME", name="../b/c")
    head = scored[1][0].with_suffix(".safetensors")
    save_file({"weight": torch.zeros(1)}, head)
    refused(CheckpointError, "is no linear head", results=scored)
    shard = bank / "features-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    refused(BankError, "missing or damaged", bank=bank)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    into = tmp_path / "out"
    into.mkdir()
    (into / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        folder.prepare(scene.model(), into, name="a/b", **FEW)
    assert [path.name for path in into.iterdir()] == ["mine.txt"]


def test_a_shard_is_not_copied_and_a_record_is(measured, tmp_path):
    model, scored, bank = measured
    folder.prepare(model, tmp_path / "out", name="a/b", **FEW | {"bank": bank, "results": scored})
    shard = tmp_path / "out/bank/features-00000.safetensors"
    assert shard.samefile(bank / "features-00000.safetensors")
    for record in (tmp_path / "out/results").glob("*.json"):
        record.write_text("edited")
    assert results.load(scored[0][0]) == scored[0][1]
