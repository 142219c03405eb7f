"""What moves no score: batch size, workers, shards, chunks and processes. Every run has banks of its own."""

import functools

import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation import copydays, job, knn, linear, retrieval
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.metrics import label_free
from tests.evaluation.training_scene import in_two_processes

CARDS = {
    ("knn", "dino"): {"k": [1, 5, 20]},
    ("cluster", "carp"): {},
    ("linear", "cached-grid"): {
        "epochs": 3,
        "learning_rates": [0.01, 0.1],
        "weight_decays": [0.0, 0.01],
        "batch_size": 32,
    },
    ("linear", "logreg"): {"number": 4},
    ("retrieval", "classes"): {},
    ("labelfree", "rankme"): {},
    ("copydays", "copies"): {
        "num_originals": 12,
        "num_backgrounds": 3,
        "blocks": ["strong", "jpegqual-3", "crops-50"],
    },
}


# One of each layer: making fresh weights takes longer than all that is tested here.
network = functools.cache(lambda layer: open_model("random:digits", layer=layer))


def scores(home, folder, kinds, **settings):
    """Return every score of some kinds, with its interval."""
    settings = {"batch_size": 16, "num_workers": 0, "device": "cpu"} | settings
    found = {}
    for kind, variant in kinds:
        card = loading.protocol_card(kind, variant, CARDS[kind, variant])
        record, _ = evaluate(
            network(card.layer),
            card,
            dataset=f"folder:{folder}",
            settings=Settings(bank_home=home / "banks", **settings),
            output=home / "results",
        )
        for score in record.scores:
            name = (kind, variant, score.metric, *score.settings.items())
            found[name] = (score.value, score.low, score.high)
    return found


def without_published(patch):
    """Leave the published numbers unread: every run would read them for each kind."""
    patch.setattr(loading, "published", list)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "carp"))
    without_published(monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(digit_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARP_HOME", str(tmp_path_factory.mktemp("carp")))
        without_published(patch)
        return scores(tmp_path_factory.mktemp("undisturbed"), digit_folder, CARDS)


def test_every_kind_gives_scores(undisturbed):
    assert {name[:2] for name in undisturbed} == set(CARDS)


def test_workers_move_no_score(undisturbed, digit_folder, home):
    assert scores(home, digit_folder, CARDS, num_workers=2) == undisturbed


def test_shards_move_no_score(undisturbed, digit_folder, home, monkeypatch):
    monkeypatch.setattr(job, "extract", functools.partial(job.extract, shard_rows=16))
    assert scores(home, digit_folder, CARDS) == undisturbed
    assert len(list(home.glob("banks/*/features-00005*.safetensors"))) >= 1


def test_chunks_move_no_score(undisturbed, digit_folder, home, monkeypatch):
    monkeypatch.setattr(knn, "classify", functools.partial(knn.classify, chunk=7))
    monkeypatch.setattr(knn, "CHUNK", 3)
    monkeypatch.setattr(linear, "CHUNK", 7)
    monkeypatch.setattr(retrieval, "CHUNK_VALUES", 500)
    monkeypatch.setattr(retrieval, "BLOCK_ROWS", 10)
    monkeypatch.setattr(copydays, "BLOCK_ROWS", 5)
    monkeypatch.setattr(label_free, "CHUNK_VALUES", 500)
    found = scores(home, digit_folder, CARDS)
    # A sum of very many numbers is added up in another order.
    summed = [name for name in found if name[2] == "uniformity"]
    assert len(summed) == 1
    assert found.pop(summed[0])[0] == pytest.approx(undisturbed[summed[0]][0], rel=1e-6)
    assert found == {name: undisturbed[name] for name in found}


def test_processes_move_no_score(undisturbed, digit_folder, home):
    for found in in_two_processes(scores, home, digit_folder, CARDS):
        assert found == undisturbed


def test_another_batch_size_moves_scores_by_no_more_than_rounding(undisturbed, digit_folder, home):
    # The network itself rounds otherwise in another batch: in the seventh digit, and features are stored with three.
    found = scores(home, digit_folder, CARDS, batch_size=5)
    assert found.keys() == undisturbed.keys()
    for name, values in found.items():
        assert values == pytest.approx(undisturbed[name], abs=0.2), name
