import hashlib

import numpy as np
import pytest
import torch

from carp_eval import seeds
from carp_eval.data import subsets
from carp_eval.errors import CardError, DataError, UsageError
from carp_eval.evaluation import finetune, probe_training
from carp_eval.models import trunks
from tests.evaluation.training_scene import (
    SMALL,
    STILL,
    Flat,
    StopError,
    bytes_of,
    card,
    coloured,
    flattened,
    in_two_processes,
    job,
    run_and_watch,
    state_of,
    stopping,
)
from tests.features.scene import DIM

RATES = {"rates": [{"trunk": 0.1, "head": 0.5}], "fraction": 1.0}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))


def by_hand(protocol, images, start, *, trunk_rate, head_rate):
    """Fine-tune a matrix on the pixels and a linear head on it, by plain loops in float64."""
    pixels = (images.content.reshape(len(images), -1) / 255 - 0.5) / 0.25
    values = [
        Flat().linear.weight.detach().double().numpy(),
        start.weight.detach().double().numpy(),
        start.bias.detach().double().numpy(),
    ]
    velocities = [np.zeros_like(value) for value in values]
    for epoch in range(protocol.epochs):
        seed = seeds.derive(0, "finetune")
        order = torch.randperm(len(images), generator=seeds.generator(seed, "order", epoch)).numpy()
        fall = 0.2 ** sum(epoch >= milestone for milestone in protocol.milestones)
        for first in range(0, len(order), protocol.batch_size):
            rows = order[first : first + protocol.batch_size]
            trunk, weights, biases = values
            features = pixels[rows] @ trunk.T
            scores = features @ weights.T + biases
            error = np.exp(scores - scores.max(axis=1, keepdims=True))
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(rows)), images.labels[rows]] -= 1
            error /= len(rows)
            slopes = [(error @ weights).T @ pixels[rows], error.T @ features, error.sum(axis=0)]
            rates = [trunk_rate, head_rate, head_rate]
            for number, (slope, rate) in enumerate(zip(slopes, rates)):
                velocities[number] = 0.9 * velocities[number] + slope + protocol.weight_decay * values[number]
                values[number] = values[number] - fall * rate * velocities[number]
    return values


def test_trunk_and_head_move_as_in_plain_loops_each_at_its_rate(tmp_path):
    rates = [{"trunk": 0.002, "head": 0.05, "fractions": [1.0]}]
    changes = {"fraction": 1.0, "milestones": [1, 2], "weight_decay": 0.01, "rates": rates}
    protocol = card("semisup@swav", **STILL, **SMALL, **changes)
    work = job(tmp_path, protocol, network=Flat())
    outcome = finetune.run(work)
    start = probe_training.build_head(protocol, DIM, 3, seed=seeds.derive(0, "finetune"))
    wanted = by_hand(protocol, work.images("train"), start, trunk_rate=0.002, head_rate=0.05)
    found = state_of(work, "fine-tuning")["modules"]
    starts = [Flat().linear.weight, start.weight, start.bias]
    for value, tensor, before in zip(
        wanted, (found["trunk"]["linear.weight"], found["head"]["weight"], found["head"]["bias"]), starts
    ):
        moved = np.linalg.norm(value - before.detach().numpy())
        assert moved > 0
        assert np.linalg.norm(tensor.numpy() - value) < 1e-4 * moved
    asked = work.images("test")
    pixels = (asked.content.reshape(30, -1) / 255 - 0.5) / 0.25
    predicted = (pixels @ wanted[0].T @ wanted[1].T + wanted[2]).argmax(axis=1)
    assert outcome.predictions["predicted"].tolist() == predicted.tolist()
    assert outcome.scores[0].value == pytest.approx(100 * (predicted == asked.labels).mean())
    assert outcome.scores[0].settings == {"fraction": 1.0}
    assert outcome.counts == {"trained": 50, "queries": 30}


def test_the_given_model_stays_and_its_copy_learns_with_batch_statistics(tmp_path):
    work = job(tmp_path, card("finetune@carl", **SMALL | {"epochs": 30}, **RATES))
    network = work.model.network
    before = bytes_of(network)
    outcome = finetune.run(work)
    assert bytes_of(network) == before
    assert outcome.scores[0].value > 80
    assert outcome.scores[0].settings == {"fraction": 1.0, "pretrained_on": "elsewhere"}
    trained = state_of(work, "fine-tuning")["modules"]["trunk"]
    kept = dict(network.state_dict())
    assert trained["layers.1.num_batches_tracked"] == 30 * 4
    for name in ("layers.0.weight", "layers.1.weight", "layers.1.running_mean", "layers.1.running_var"):
        assert not torch.equal(trained[name], kept[name]), name


@pytest.mark.parametrize("images", [3, 52, 148])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, images):
    protocol = card("semisup@swav", **SMALL, **RATES)
    whole = job(tmp_path, protocol)
    told = finetune.run(whole)
    wanted = state_of(whole, "fine-tuning")
    whole.unfinished().remove()
    with pytest.raises(StopError):
        finetune.run(job(tmp_path, protocol, progress=stopping("fine-tuning", images)))
    resumed = job(tmp_path, protocol)
    outcome = finetune.run(resumed)
    found = state_of(resumed, "fine-tuning")
    assert torch.equal(flattened(found), flattened(wanted))
    assert (outcome.scores, outcome.notes) == (told.scores, told.notes)


def tuned(home, flat, **settings):
    protocol = card("semisup@swav", **SMALL, **RATES)
    work = job(home, protocol, network=Flat() if flat else None, **settings)
    outcome, modules = run_and_watch(finetune.run, work)
    return modules, outcome.predictions["predicted"].tolist()


def test_two_processes_make_the_steps_of_one(tmp_path, monkeypatch):
    """Fifty images in batches of 16 and one of 2, which two processes leave out: 48 make both alike."""
    alone = tuned(tmp_path / "one", flat=True, count=48)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "two"))
    first, second = in_two_processes(_tuned_48, tmp_path / "two")
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[0], alone[0], rtol=0, atol=1e-5)
    assert first[1] == second[1] == alone[1]


def _tuned_48(home):
    return tuned(home, flat=True, count=48)


def test_two_processes_agree_on_the_statistics_they_saw_each_a_half_of(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "two"))
    first, second = in_two_processes(_tuned_with_norm, tmp_path / "two")
    np.testing.assert_allclose(first[0], second[0], rtol=0, atol=1e-6)
    assert first[1] == second[1]


def _tuned_with_norm(home):
    return tuned(home, flat=False)


def test_workers_and_batch_size_move_nothing(tmp_path):
    alone = tuned(tmp_path / "0", flat=False)
    for number, settings in enumerate(({"num_workers": 2}, {"batch_size": 3}), start=1):
        other = tuned(tmp_path / str(number), flat=False, **settings)
        np.testing.assert_array_equal(other[0], alone[0])
        assert other[1] == alone[1]


def test_few_labels_are_drawn_by_class_and_told(tmp_path):
    work = job(tmp_path, card("semisup@carp-paper", epochs=1, fraction=0.2), network=Flat())
    outcome = finetune.run(work)
    counts = np.bincount(work.images("train").labels)
    chosen = work.opened["chosen to train on"]
    assert np.bincount(chosen.labels).tolist() == [round(count * 0.2) for count in counts]
    assert outcome.counts["trained"] == len(chosen)
    assert outcome.scores[0].settings == {"fraction": 0.2}
    assert any(f"each epoch was one step of {len(chosen)}" in note for note in outcome.notes)
    protocol = card("semisup@swav", epochs=1, fraction=None, images_per_class=13)
    outcome = finetune.run(job(tmp_path, protocol, network=Flat(), count=60))
    assert outcome.scores[0].settings == {"images_per_class": 13}
    assert outcome.counts["trained"] == 39


def test_lists_name_what_is_trained_on(tmp_path, monkeypatch):
    listed = tmp_path / "list.txt"
    listed.write_text("003.JPEG\n010.JPEG\n011.JPEG\n048.JPEG\n")
    protocol = card("semisup@swav", epochs=1, image_list=str(listed))
    with pytest.raises(DataError, match=r"is not SimCLR's list 1percent.txt"):
        finetune.run(job(tmp_path, protocol, network=Flat(), dataset="imagenet"))
    sha256 = hashlib.sha256(listed.read_bytes()).hexdigest()
    monkeypatch.setitem(subsets.KNOWN_LISTS, ("imagenet", 0.01), subsets.KnownList("1percent.txt", 4, sha256))
    work = job(tmp_path, protocol, network=Flat(), dataset="imagenet")
    outcome = finetune.run(work)
    assert work.opened["chosen to train on"].numbers.tolist() == [3, 10, 11, 48]
    assert any(f"4 images of SimCLR's list, SHA-256 {sha256}" in note for note in outcome.notes)
    other = finetune.run(job(tmp_path, protocol, network=Flat()))
    assert any("4 images of a list, SHA-256" in note for note in other.notes)
    with pytest.raises(DataError, match="imagenet_subsets"):
        finetune.run(job(tmp_path, card("semisup@swav"), network=Flat(), dataset="imagenet"))


def test_amounts_without_rates_are_refused_and_given_rates_fit_any(tmp_path):
    with pytest.raises(UsageError, match=r"fraction = 0.1, images_per_class = 128, not for fraction = 0.05"):
        finetune.run(job(tmp_path, card("semisup@swav", fraction=0.05)))
    finetune.run(job(tmp_path, card("semisup@swav", **SMALL, **RATES | {"fraction": 0.5}), network=Flat()))
    for changes in ({"images_per_class": 3}, {"fraction": None}, {"fraction": 0.0}, {"rates": []}):
        with pytest.raises(CardError):
            card("semisup@swav", **changes)


def test_what_cannot_be_tuned_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no parameters"):
        finetune.run(job(tmp_path, card("semisup@swav", **SMALL, **RATES), network=trunks.Pixels()))
    with pytest.raises(UsageError, match="are too few for 1"):
        finetune.run(job(tmp_path, card("semisup@swav", **SMALL | {"batch_size": 1}, **RATES)))


def test_unreadable_images_are_replaced_in_training_and_left_out_of_the_score(tmp_path):
    protocol = card("semisup@swav", **SMALL, **RATES)
    work = job(tmp_path, protocol, network=Flat(), bad=(3, 20), bad_queries=(5, 6), skip_bad=True)
    outcome = finetune.run(work)
    assert outcome.counts == {
        "trained": 48,
        "queries": 28,
        "skipped_in_training": 2,
        "skipped_queries": 2,
    }
    predicted = outcome.predictions["predicted"]
    assert np.flatnonzero(predicted == -1).tolist() == [5, 6]
    read = predicted >= 0
    right = (predicted == work.images("test").labels)[read]
    assert outcome.scores[0].value == pytest.approx(100 * right.mean())


def test_near_duplicates_are_counted_or_left_out(tmp_path):
    def run(leaks):
        work = job(tmp_path, card("semisup@swav", **SMALL, **RATES), network=Flat(), leaks=leaks)
        work.opened["test"].content[[4, 9]] = work.opened["train"].content[[0, 7]]
        return finetune.run(work)

    counted, dropped = run("count"), run("drop")
    assert counted.counts["leaks"] == dropped.counts["leaks"] >= 2
    left = dropped.predictions["predicted"] >= 0
    assert (~left).sum() == counted.counts["leaks"]
    assert (counted.counts["queries"], dropped.counts["queries"]) == (30, left.sum())
    assert not left[[4, 9]].any()
    assert (dropped.predictions["predicted"] == counted.predictions["predicted"])[left].all()
    right = dropped.predictions["predicted"] == coloured(30, seed=2).labels
    assert dropped.scores[0].value == pytest.approx(100 * right[left].mean())
