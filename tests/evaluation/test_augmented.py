import math

import numpy as np
import pytest
import torch

from carp_eval import seeds
from carp_eval.errors import BadImageError, CardError, TrainingError, UsageError
from carp_eval.evaluation import augmented, probe_training, runners, running
from tests.evaluation.training_scene import (
    SMALL,
    STILL,
    StopError,
    bytes_of,
    card,
    flattened,
    in_two_processes,
    job,
    run_and_watch,
    state_of,
    stopping,
)
from tests.features.scene import DIM, expected


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def rate_by_hand(protocol, epoch):
    rate = protocol.learning_rate
    if protocol.lr_scaling != "none":
        rate *= protocol.batch_size / 256
    if protocol.schedule == "cosine":
        return rate / 2 * (1 + math.cos(math.pi * epoch / protocol.epochs))
    for milestone in protocol.milestones:
        if epoch >= milestone:
            rate *= protocol.decay
    return rate


def trained_by_hand(protocol, features, labels, start):
    """Return weights and biases that a plain loop in float64 comes to."""
    values = [start.weight.detach().double().numpy(), start.bias.detach().double().numpy()]
    velocities = [np.zeros_like(value) for value in values]
    seed = seeds.derive(0, "probe", "")
    for epoch in range(protocol.epochs):
        order = torch.randperm(len(labels), generator=seeds.generator(seed, "order", epoch)).numpy()
        rate = rate_by_hand(protocol, epoch)
        for first in range(0, len(order), protocol.batch_size):
            rows = order[first : first + protocol.batch_size]
            error = softmax(features[rows] @ values[0].T + values[1])
            error[np.arange(len(rows)), labels[rows]] -= 1
            error /= len(rows)
            for number, slope in enumerate((error.T @ features[rows], error.sum(axis=0))):
                value, bias = values[number], number == 1
                lars = protocol.optimiser == "lars"
                if lars and bias and not protocol.adapt_biases:
                    pass
                else:
                    slope = slope + protocol.weight_decay * value
                    if lars:
                        long, steep = np.sqrt((value**2).sum()), np.sqrt((slope**2).sum())
                        slope = slope * (0.001 * long / steep if long > 0 and steep > 0 else 1)
                velocities[number] = protocol.momentum * velocities[number] + slope
                step = velocities[number]
                if protocol.nesterov:
                    step = slope + protocol.momentum * step
                values[number] = value - rate * step
    return np.concatenate([value.ravel() for value in values])


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("swav", {"weight_decay": 0.1}),
        ("mocov2", {"milestones": [1, 2], "learning_rate": 0.5, "nesterov": True}),
        ("carp-code", {"learning_rate": 50.0, "weight_decay": 0.1}),
        ("simsiam", {"learning_rate": 500.0, "weight_decay": 0.1}),
    ],
)
def test_the_head_is_that_of_a_plain_loop_on_the_features(tmp_path, variant, changes):
    """Fifty images in batches of 16: the last of an epoch has two."""
    protocol = card(f"linear@{variant}", **STILL, **SMALL | changes)
    work = job(tmp_path, protocol)
    images = work.images("train")
    outcome = augmented.run(work)
    start = probe_training.build_head(protocol, DIM, 3, seed=seeds.derive(0, "probe", ""))
    features = np.stack([expected(images, number) for number in range(50)])
    wanted = trained_by_hand(protocol, features, images.labels, start)
    found = flattened(state_of(work, "head")).numpy()
    moved = np.linalg.norm(wanted - np.concatenate([p.detach().numpy().ravel() for p in start.parameters()]))
    assert np.linalg.norm(found - wanted) < 1e-4 * moved
    weights, biases = wanted[: 3 * DIM].reshape(3, DIM), wanted[3 * DIM :]
    asked = np.stack([expected(work.images("test"), number) for number in range(30)])
    agree = outcome.predictions["predicted"] == (asked @ weights.T + biases).argmax(axis=1)
    # Features are banked in float16, which may tip one near the border.
    assert agree.sum() >= 29
    top1 = next(score for score in outcome.scores if score.metric == "top1")
    right = outcome.predictions["predicted"] == work.images("test").labels
    assert top1.value == pytest.approx(100 * right.mean())
    assert top1.low <= top1.value <= top1.high
    assert {score.metric for score in outcome.scores} == {"top1", "top5", "mean_per_class"}


def test_crops_are_drawn_anew_each_epoch_and_tell_the_classes(tmp_path):
    still = job(tmp_path, card("linear@swav", **STILL, **SMALL))
    drawn = job(tmp_path, card("linear@swav", **SMALL | {"epochs": 20}, learning_rate=0.1))
    augmented.run(still)
    scores = augmented.run(drawn).scores
    assert scores[0].value > 80
    again = job(tmp_path / "again", drawn.card)
    assert augmented.run(again).scores == scores
    other = job(tmp_path / "other", drawn.card, seed=1)
    augmented.run(other)
    assert not torch.equal(flattened(state_of(other, "head")), flattened(state_of(drawn, "head")))


def test_nothing_of_the_trunk_changes(tmp_path):
    work = job(tmp_path, card("linear@swav", **SMALL))
    network = work.model.network
    before = bytes_of(network)
    gradients = [parameter.grad for parameter in network.parameters()]
    augmented.run(work)
    assert bytes_of(network) == before
    assert [parameter.grad for parameter in network.parameters()] == gradients == [None] * len(gradients)


@pytest.mark.parametrize("images", [3, 53, 101, 149])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, images):
    protocol = card("linear@carp-code", **SMALL | {"epochs": 3})
    whole = job(tmp_path, protocol)
    told = augmented.run(whole)
    wanted = state_of(whole, "head")
    whole.unfinished().remove()
    with pytest.raises(StopError):
        augmented.run(job(tmp_path, protocol, progress=stopping("training", images)))
    first = []
    bar = lambda name: lambda done, total: first.append((name, done, total))  # noqa: E731
    resumed = job(tmp_path, protocol, progress=bar)
    outcome = augmented.run(resumed)
    assert (outcome.scores, outcome.notes, outcome.counts) == (told.scores, told.notes, told.counts)
    assert outcome.predictions["predicted"].tolist() == told.predictions["predicted"].tolist()
    found = state_of(resumed, "head")
    assert torch.equal(flattened(found), flattened(wanted))
    assert found["losses"] == wanted["losses"]
    training = [(done, total) for name, done, total in first if name == "training"]
    # What was done before the stop is not done again, but for the epoch it fell in.
    assert 0 < training[0][0] - images // 50 * 50 <= 8
    assert training[-1] == (150, 150)


def final_head(home, batch_size=8, num_workers=0):
    """Train on 49 images in batches of 16: of the last, one image, a second process has none."""
    settings = {"batch_size": batch_size, "num_workers": num_workers}
    work = job(home, card("linear@swav", **SMALL), count=49, **settings)
    outcome, head = run_and_watch(augmented.run, work)
    return head, [score.value for score in outcome.scores]


def test_neither_workers_nor_chunks_nor_processes_move_the_head(tmp_path, monkeypatch):
    head, scores = final_head(tmp_path / "one")
    for number, options in enumerate(({"num_workers": 2}, {"batch_size": 64}, {"batch_size": 3})):
        other, same = final_head(tmp_path / str(number), **options)
        np.testing.assert_allclose(other, head, rtol=0, atol=1e-5)
        assert same == scores
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "two"))
    (first, told), (second, told_too) = in_two_processes(final_head, tmp_path / "two")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, head, rtol=0, atol=1e-5)
    assert told == told_too == scores


def test_the_best_epoch_is_the_best_of_runs_that_ended_there(tmp_path):
    """At a constant rate the epochs before do not depend on how many follow."""
    changes = {"schedule": "constant", "batch_size": 16, "optimiser": "sgd", "learning_rate": 1.0}
    ended = []
    for epochs in range(1, 7):
        work = job(tmp_path / str(epochs), card("linear@carp-code", **changes | {"epochs": epochs}))
        outcome = augmented.run(work)
        ended.append((outcome.scores[0].value, outcome.predictions["predicted"].tolist()))
    work = job(tmp_path / "best", card("linear@carp-code-best-epoch", **changes | {"epochs": 6}))
    outcome = augmented.run(work)
    values = [value for value, _ in ended]
    assert outcome.scores[0].value == max(values)
    assert outcome.predictions["predicted"].tolist() == ended[values.index(max(values))][1]
    assert any(" ".join(f"{value:.2f}" for value in values) in note for note in outcome.notes)
    assert any("chosen on the scored images" in note for note in outcome.notes)


def test_unreadable_images_stop_the_run_or_give_their_place(tmp_path):
    protocol = card("linear@swav", **SMALL)
    with pytest.raises(BadImageError):
        augmented.run(job(tmp_path, protocol, bad=(3, 20)))
    work = job(tmp_path / "skipping", protocol, bad=(3, 20), bad_queries=(5,), skip_bad=True)
    outcome = augmented.run(work)
    assert outcome.counts == {"trained": 48, "skipped_in_training": 2}
    assert len(outcome.predictions["predicted"]) == 29


def test_what_was_skipped_is_counted_as_where_features_are_banked(tmp_path):
    def counts(name, **changes):
        work = job(
            tmp_path / name, card(name, **changes), bad=(3, 20), bad_queries=(5,), skip_bad=True, dataset="a"
        )
        outcome = runners.RUNNERS[type(work.card)](work)
        return {**running._counts(work), **outcome.counts}

    augmented_counts = counts("linear@swav", **SMALL)
    banked = counts("knn@dino", k=[3])
    names = ("bank", "queries", "classes", "skipped")
    assert [augmented_counts[name] for name in names] == [banked[name] for name in names] == [48, 29, 3, 3]
    assert augmented_counts["trained"] == 48


def test_a_rate_that_is_too_high_is_told(tmp_path):
    with pytest.raises(TrainingError, match=r"linear@swav is too high .* --lr"):
        augmented.run(job(tmp_path, card("linear@swav", **SMALL, learning_rate=1e38)))


def test_a_rate_that_teaches_nothing_is_told(tmp_path):
    def ends_no_lower(rate):
        outcome = augmented.run(job(tmp_path, card("linear@swav", **SMALL, learning_rate=rate)))
        return any("no lower than that of guessing, 1.099" in note for note in outcome.notes)

    assert ends_no_lower(1000.0)
    assert not ends_no_lower(0.003)


def test_splits_that_do_not_fit_are_refused(tmp_path):
    protocol = card("linear@swav", **SMALL)
    unlabelled, other = job(tmp_path, protocol), job(tmp_path, protocol)
    unlabelled.opened["train"].labels[7] = -1
    with pytest.raises(UsageError, match="1 of 50 images of noise"):
        augmented.run(unlabelled)
    other.opened["test"].class_names = ("a", "b")
    with pytest.raises(UsageError, match="different classes: 3 and 2"):
        augmented.run(other)


def test_scores_tell_the_pretraining_where_the_card_asks(tmp_path):
    told = augmented.run(job(tmp_path, card("linear@carl-transfer", **SMALL, learning_rate=0.1)))
    assert told.scores[0].settings == {"pretrained_on": "elsewhere"}
    assert any("fall after epochs 30, 40, and there were 3" in note for note in told.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"reported": "best"},
        {"variant": "swav-best-epoch"},
        {"schedule": "steps"},
        {"milestones": [5]},
        {"optimiser": "lars", "nesterov": True},
        {"preprocessing": {"resize": 256, "interpolation": "bilinear"}},
    ],
)
def test_cards_that_contradict_themselves_are_refused(changes):
    with pytest.raises(CardError):
        card("linear@swav", **changes)


def test_near_duplicates_are_counted_or_left_out(tmp_path):
    def run(leaks):
        work = job(tmp_path, card("linear@swav", **SMALL), leaks=leaks)
        # Three scored images are three to learn from.
        work.opened["test"].content[[4, 9, 29]] = work.opened["train"].content[[0, 7, 8]]
        return work, augmented.run(work)

    (_, ignored), (_, counted), (work, dropped) = (run(leaks) for leaks in ("ignore", "count", "drop"))
    assert "leaks" not in ignored.counts
    leaks = counted.counts["leaks"]
    assert leaks >= 3
    assert counted.scores == ignored.scores
    assert any("near-duplicates" in note and "--drop-leaks" in note for note in counted.notes)
    left = work.judged.index.tolist()
    assert len(left) == 30 - leaks
    assert not {4, 9, 29} & set(left)
    whole = counted.predictions["predicted"]
    assert dropped.predictions["predicted"].tolist() == whole[left].tolist()
    right = (whole == work.images("test").labels)[left]
    assert dropped.scores[0].value == pytest.approx(100 * right.mean())
