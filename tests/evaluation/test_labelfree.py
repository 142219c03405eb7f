import math
from itertools import combinations

import numpy as np
import pytest
import torch

from carp_eval.cards import loading
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.errors import BankError, UsageError
from carp_eval.evaluation import labelfree
from tests.features.scene import Net, Noise, take


def card(**changes):
    path = loading.folder(loading.PROTOCOLS) / "labelfree@rankme.toml"
    return loading.check(
        LabelFreeCard, loading.read(path, loading.PROTOCOLS) | changes, where="labelfree@rankme"
    )


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    images = Noise(40, seed=1)
    images.labels[:] = -1
    return take(tmp_path_factory.mktemp("banks"), images=images)


def values(outcome):
    return {score.metric: score.value for score in outcome.scores}


def test_a_run_needs_no_label_and_follows_the_equations(bank):
    outcome = labelfree.run(card(), bank, bank, 0)
    rows = bank.features().double().numpy()
    strengths = np.sqrt(np.linalg.eigvalsh(rows.T @ rows))
    shares = strengths / strengths.sum() + 1e-7
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [math.exp(-2 * ((x - y) ** 2).sum()) for x, y in combinations(unit, 2)]
    assert values(outcome) == pytest.approx(
        {"rankme": math.exp(-(shares * np.log(shares)).sum()), "uniformity": math.log(np.mean(pairs))}
    )
    assert outcome.predictions == {}
    assert outcome.counts == {"looked_at": 40, "dim": 5}
    assert any("directions, of 5 at most" in note for note in outcome.notes)
    assert any("alignment needs two views" in note for note in outcome.notes)


def test_the_card_decides(bank):
    everything = values(labelfree.run(card(images=0), bank, bank, 0))
    assert everything == values(labelfree.run(card(), bank, bank, 0))
    softer = values(labelfree.run(card(t=0.1, epsilon=0.01), bank, bank, 0))
    assert softer["uniformity"] > everything["uniformity"]
    assert softer["rankme"] != pytest.approx(everything["rankme"], rel=1e-3)


def test_fewer_images_are_drawn_by_the_seed(bank):
    outcome = labelfree.run(card(images=4), bank, bank, 0)
    assert outcome.counts["looked_at"] == 4
    assert any("4 of 40 images, drawn at random" in note for note in outcome.notes)
    assert any("directions, of 4 at most" in note for note in outcome.notes)
    assert values(outcome) == values(labelfree.run(card(images=4), bank, bank, 0))
    others = [values(labelfree.run(card(images=4), bank, bank, seed))["uniformity"] for seed in range(1, 4)]
    assert len({values(outcome)["uniformity"], *others}) == 4


def test_one_image_and_another_model_are_refused(bank, tmp_path):
    with pytest.raises(UsageError, match="two or more, got 1"):
        labelfree.run(card(images=1), bank, bank, 0)
    network = Net().eval()
    with torch.no_grad():
        network.layers[0].bias += 1
    with pytest.raises(BankError, match="weights_sha256"):
        labelfree.run(card(), bank, take(tmp_path, network=network), 0)
