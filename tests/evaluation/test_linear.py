import math

import numpy as np
import pytest
import torch
from torch import nn

from carp_eval import seeds
from carp_eval.cards import linear as cards
from carp_eval.cards import loading
from carp_eval.errors import CardError, UsageError
from carp_eval.evaluation import held_out, linear, linear_grid, scaled
from carp_eval.evaluation.grid_rows import InMemory
from carp_eval.evaluation.held_out import Judged
from carp_eval.metrics.accuracy import rank_classes
from tests.features.scene import Noise, take

PAIRS = [(0.3, 0.0), (0.03, 0.1), (1.0, 0.01), (1e-4, 0.5), (0.3, 0.2)]
OPTIONS = {"num_classes": 3, "epochs": 4, "batch_size": 8, "momentum": 0.9, "seed": 5}
NAMES = ("a", "b", "c")


def card(variant, **changes):
    content = loading.read(loading.folder("protocols") / f"linear@{variant}.toml", "protocols") | changes
    return loading.check(cards.card_type(content), content, where=variant)


def problem(count=44, dim=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    features = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    features[:, :3] += nn.functional.one_hot(labels, 3)
    return features.to(dtype), labels


def train(features, labels, rows, pairs=PAIRS, **changes):
    rates, decays = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    return linear_grid.train(
        InMemory(features), labels, rows, learning_rates=rates, weight_decays=decays, **OPTIONS | changes
    )


def alone(features, labels, rows, rate, decay):
    """One pair by PyTorch's own layer, loss and optimiser, in float64."""
    layer = nn.Linear(features.shape[1], 3, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimiser = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    steps = len(rows) // 8
    for epoch in range(4):
        order = rows[torch.randperm(len(rows), generator=seeds.generator(5, "linear", epoch))]
        for step in range(steps):
            batch = order[step * 8 : step * 8 + 8]
            optimiser.param_groups[0]["lr"] = (
                rate * 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (4 * steps)))
            )
            optimiser.zero_grad()
            nn.functional.cross_entropy(layer(features[batch].double()), labels[batch]).backward()
            optimiser.step()
    return layer.weight.detach(), layer.bias.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_each_pair_is_trained_as_it_would_be_alone(dtype, tolerance):
    features, labels = problem(dtype=dtype)
    rows = torch.arange(2, 44)
    heads = train(features, labels, rows)
    weights = heads.weights.view(6, 3, len(PAIRS))
    for number, (rate, decay) in enumerate(PAIRS):
        wanted, wanted_bias = alone(features, labels, rows, rate, decay)
        assert (weights[:, :, number].T - wanted).norm() <= tolerance * wanted.norm()
        one = heads.alone(number)
        assert (one.weights.T - wanted).norm() <= tolerance * wanted.norm()
        assert (one.biases - wanted_bias).norm() <= tolerance * wanted_bias.norm()


def test_progress_of_the_grid_is_told(monkeypatch):
    monkeypatch.setattr(linear_grid, "STEPS_TOLD", 8)
    features, labels = problem()
    told = []
    train(features, labels, torch.arange(44), progress=lambda *done: told.append(done))
    assert told == [(8, 20), (16, 20), (20, 20)]


def test_logits_and_judgement_are_those_of_loops(monkeypatch):
    monkeypatch.setattr(linear_grid, "JUDGED_VALUES", 40)
    features, labels = problem()
    heads = train(features, labels, torch.arange(20))
    rows = torch.arange(20, 44)
    judged = linear_grid.judge(heads, InMemory(features), labels, rows)
    columns, biases, points = heads.weights.numpy(), heads.biases.numpy(), features.numpy()
    for pair in range(len(PAIRS)):
        right, loss = 0, 0.0
        for row in rows.tolist():
            scores = [
                points[row] @ columns[:, c * len(PAIRS) + pair] + biases[c * len(PAIRS) + pair]
                for c in range(3)
            ]
            right += scores.index(max(scores)) == labels[row]
            loss += math.log(sum(math.exp(score) for score in scores)) - scores[labels[row]]
        assert judged.top1[pair].item() == pytest.approx(right / 24)
        assert judged.loss[pair].item() == pytest.approx(loss / 24)


def test_a_held_out_part_has_its_share_of_every_class():
    labels = torch.tensor([0] * 40 + [1] * 6 + [2] * 2)[torch.randperm(48, generator=torch.Generator())]
    fitted, held = held_out.split(labels, share=0.1, class_names=NAMES, seed=0)
    assert torch.bincount(labels[held]).tolist() == [4, 1, 1]
    assert sorted(torch.cat([fitted, held]).tolist()) == list(range(48))
    again, other = (held_out.split(labels, share=0.1, class_names=NAMES, seed=seed) for seed in (0, 1))
    assert again.held_out.tolist() == held.tolist() != other.held_out.tolist()
    # Even a large share leaves an image of each class to train on.
    fitted, held = held_out.split(labels, share=0.9, class_names=NAMES, seed=0)
    assert torch.bincount(labels[fitted]).tolist() == [4, 1, 1]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 0], ("a",), "two or more, the bank has 1"),
        ([0, 0, 2, 2], NAMES, r"1 of 3 classes have fewer: b \(0\)"),
        ([0, 0, 1, 2], NAMES, r"2 of 3 classes have fewer: b \(1\), c \(1\)"),
        ([0, 0, -1, 1, 1], ("a", "b"), "1 of 5 rows of the bank have no label"),
    ],
)
def test_classes_that_cannot_be_split_are_refused(labels, names, message):
    with pytest.raises(UsageError, match=message):
        held_out.split(torch.tensor(labels), share=0.1, class_names=names, seed=0)


def test_the_best_is_the_most_right_then_the_surest_then_the_first():
    nan = float("nan")
    cases = [
        ([0.5, 0.7, 0.6], [1.0, 2.0, 0.1], 1),
        ([0.5, 0.7, 0.7], [1.0, 2.0, 0.1], 2),
        ([0.7, 0.7, 0.7], [1.0, 1.0, 1.0], 0),
        ([0.9, 0.2, 0.1], [nan, 2.0, 0.1], 1),
    ]
    for top1, loss, wanted in cases:
        assert held_out.best(Judged(torch.tensor(top1), torch.tensor(loss))) == wanted
    with pytest.raises(UsageError, match="all 2 candidates diverged"):
        held_out.best(Judged(torch.tensor([1.0, 1.0]), torch.tensor([nan, float("inf")])))


def test_fewer_images_than_a_batch_are_refused():
    features, labels = problem()
    with pytest.raises(UsageError, match=r"a batch has 8 images, the bank has 7"):
        train(features, labels, torch.arange(7))


def coloured(count, seed):
    """Images whose brightness tells their class, most of the time."""
    images = Noise(count, seed=seed)
    images.content[:] = images.content // 4 + (images.labels * 40)[:, None, None].astype(np.uint8)
    return images


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    return take(home, images=coloured(120, 1)), take(home, images=coloured(50, 2))


GRID = {"learning_rates": [1e-5, 0.1, 1.0], "weight_decays": [0.0, 0.1], "epochs": 10, "batch_size": 16}


@pytest.mark.parametrize("changes", [{}, {"refit": False}, {"scaling": "unit"}, {"scaling": "plain"}])
def test_a_grid_scores_its_best_pair(banks, changes):
    outcome = linear.run(card("cached-grid", **GRID | changes), *banks, 0)
    scores = {score.metric: score for score in outcome.scores}
    assert set(scores) == {"top1", "top5", "mean_per_class"}
    assert all(score.low <= score.value <= score.high for score in scores.values())
    right = outcome.predictions["predicted"] == banks[1].labels.numpy()
    assert scores["top1"].value == pytest.approx(100 * right.mean())
    assert scores["top1"].value > (60 if changes.get("scaling") in ("unit", "plain") else 90)
    assert scores["top5"].value == 100
    assert scores["top1"].settings["learning_rate"] in GRID["learning_rates"]
    assert scores["top1"].settings["weight_decay"] in GRID["weight_decays"]
    refit = changes.get("refit", True)
    assert outcome.counts == {"trained": 120 if refit else 108, "held_out": 12, "candidates": 6}
    assert any("has not seen the held-out part" in note for note in outcome.notes) != refit
    assert linear.run(card("cached-grid", **GRID | changes), *banks, 0).scores == outcome.scores


def test_the_scored_images_choose_nothing(banks):
    """Whatever is asked of it, the grid chooses the same pair."""
    bank, queries = banks
    told = linear.run(card("cached-grid", **GRID), bank, queries, 0)
    other = linear.run(card("cached-grid", **GRID), bank, bank, 0)
    assert told.scores[0].settings == other.scores[0].settings
    assert any("what was trained on" in note for note in other.notes)


@pytest.mark.parametrize("scaling", ["plain", "unit", "standardised"])
def test_features_are_scaled_as_the_card_says(banks, scaling):
    """By the bank's mean and deviation, for both banks."""
    ours = scaled.both(*banks, how=scaling)
    points, asked = (bank.features().double().numpy() for bank in banks)
    mean, deviation = points.mean(axis=0), points.std(axis=0)
    deviation[deviation == 0] = 1
    for found, plain in zip(ours, (points, asked)):
        wanted = {
            "plain": plain,
            "unit": plain / np.sqrt((plain**2).sum(axis=1, keepdims=True)),
            "standardised": (plain - mean) / deviation,
        }[scaling]
        np.testing.assert_allclose(found.slab(0, len(found)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("refit", [True, False])
def test_logistic_regression_is_at_the_minimum_of_its_loss(monkeypatch, banks, dtype, refit):
    fits = []
    plain = linear._logits

    def watched(model, features):
        fits.append((model.C, model.coef_.astype(np.float64), model.intercept_.astype(np.float64)))
        return plain(model, features)

    monkeypatch.setattr(linear, "_logits", watched)
    settings = {"lowest_power": -3, "highest_power": 1, "number": 5, "dtype": dtype, "refit": refit}
    chosen = card("logreg", **settings, tolerance=1e-5)
    outcome = linear.run(chosen, *banks, 0)
    c, weights, biases = fits[-1]
    assert outcome.scores[0].settings == {"C": c}
    bank, queries = banks
    rows = np.arange(120)
    if not refit:
        rows = held_out.split(bank.labels, share=0.1, class_names=NAMES, seed=0).fitted.numpy()
    features, labels = bank.features().double().numpy()[rows], bank.labels.numpy()[rows]
    slope, bias_slope = weights / c, np.zeros(3)
    for row, label in zip(features, labels):
        scores = np.exp(weights @ row + biases)
        error = scores / scores.sum() - np.eye(3)[label]
        slope += np.outer(error, row)
        bias_slope += error
    assert np.abs(slope).max() < 1e-4 * len(rows)
    assert np.abs(bias_slope).max() < 1e-4 * len(rows)
    predicted = (queries.features().double().numpy() @ weights.T + biases).argmax(axis=1)
    assert outcome.predictions["predicted"].tolist() == predicted.tolist()
    assert outcome.counts == {"trained": len(rows), "held_out": 12, "candidates": 5}


def test_two_classes_rank_by_the_sign_of_one_score():
    model = linear.LogisticRegression().fit(np.array([[-1.0], [1.0]]), np.array([0, 1]))
    ranking = rank_classes(linear._logits(model, np.array([[-3.0], [2.0]])), places=2)
    assert ranking.tolist() == [[0, 1], [1, 0]]


def test_fits_that_were_not_done_are_told(banks):
    outcome = linear.run(card("logreg", number=2, max_iter=1, tolerance=1e-9), *banks, 0)
    assert any("3 fits were not done after 1 iterations" in note for note in outcome.notes)


def test_cards_of_another_mode_or_an_impossible_value_are_refused():
    assert isinstance(card("cached-grid"), cards.CachedLinearCard)
    assert isinstance(card("logreg"), cards.LogregCard)
    assert len(card("cached-grid").learning_rates) * len(card("cached-grid").weight_decays) == 48
    for changes in ({"mode": "other"}, {"held_out": 1.0}, {"momentum": 1.0}, {"learning_rates": []}):
        with pytest.raises(CardError):
            card("cached-grid", **changes)


def test_images_without_labels_are_refused_before_any_training(banks, monkeypatch):
    bank, queries = banks
    labels = queries.labels.clone()
    labels[3] = -1
    monkeypatch.setitem(queries.__dict__, "labels", labels)
    with pytest.raises(UsageError, match="1 of 50 images have no label"):
        linear.run(card("cached-grid", **GRID), bank, queries, 0)
