"""DeepCluster-v2 and SeLa-v2: their loss, their labels, and trainings with both."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from carp_eval import distributed
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CardError, TrainingError
from carp_eval.pretrain import journal
from carp_eval.pretrain.deepcluster import DeepCluster
from carp_eval.pretrain.feature_memory import FeatureMemory
from carp_eval.pretrain.pseudo_labels import UNLABELLED, classification, largest_share
from carp_eval.pretrain.sela import Sela
from tests.features.processes import Started
from tests.pretrain.assigning import Listener, small, train
from tests.pretrain.in_processes import halves, whole
from tests.pretrain.test_sinkhorn import by_loops as assigned_by_loops

METHODS = {"digits-deepcluster-v2": DeepCluster, "digits-sela-v2": Sela}
CPU = torch.device("cpu")


def unit_rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def by_loops(embeddings, prototypes, labels, temperature):
    """Equation 2, in float64."""
    total, count = 0.0, 0
    for number, own in enumerate(prototypes.double().chunk(len(labels))):
        for view in embeddings.double().tolist():
            for image, row in enumerate(view):
                target = labels[number, image].item()
                if target < 0:
                    continue
                logits = [sum(a * b for a, b in zip(row, centre)) / temperature for centre in own.tolist()]
                total += math.log(sum(math.exp(logit) for logit in logits)) - logits[target]
                count += 1
    return total / count


# Seven of 32 images are unlabelled, all of them among the first sixteen.
LABELS = torch.randint(6, (3, 32), generator=torch.Generator().manual_seed(2))
LABELS[:, 2:16:2] = UNLABELLED


def test_the_loss_is_that_of_loops():
    embeddings, prototypes = unit_rows(4, 32, 5), unit_rows(18, 5, seed=1)
    loss = classification(embeddings, prototypes, LABELS, temperature=0.1)
    assert loss.item() == pytest.approx(by_loops(embeddings, prototypes, LABELS, 0.1), rel=1e-5)


def test_without_a_label_there_is_nothing_to_learn():
    embeddings = unit_rows(2, 4, 5).requires_grad_()
    loss = classification(embeddings, unit_rows(3, 5), torch.full((1, 4), UNLABELLED), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not embeddings.grad.any()


def test_a_process_with_32_images_is_two_with_16_however_labels_fall(tmp_path):
    prototypes = unit_rows(18, 5, seed=1)

    def loss_of(embeddings):
        own = slice(16 * distributed.rank(), 16 * distributed.rank() + embeddings.shape[1])
        return classification(embeddings, prototypes, LABELS[:, own], temperature=0.1)

    embeddings = unit_rows(2, 32, 5)
    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert losses == pytest.approx([expected, expected], rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


# 32 of the 40 images of a data set, in two steps, each with two views.
SEEN = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:32].view(2, 16)
FEATURES = unit_rows(2, 2, 16, 8, seed=4)


def labelled(name, rank=0, world_size=1):
    method = METHODS[name](
        small(name, clustering__iterations="50") if "deep" in name else small(name), device=CPU
    )
    memory = FeatureMemory(32, num_views=2, dim=8)
    for step in range(2):
        own = slice(rank * 16 // world_size, (rank + 1) * 16 // world_size)
        memory.write(step, SEEN[step, own], FEATURES[step][:, own])
    labels = method.assign(memory, epoch=1, num_images=40)
    return labels, method.student.prototypes.weight.detach()


def _labelled(name, store, rank):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        # Not tensors: their memory would have to outlive this process.
        return [part.numpy() for part in labelled(name, rank, 2)]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", METHODS)
def test_labels_and_prototypes_are_the_same_with_two_processes(name, tmp_path):
    started = [Started(_labelled, name, str(tmp_path / "store"), rank) for rank in (0, 1)]
    expected = [part.numpy() for part in labelled(name)]
    for process in started:
        labels, prototypes = process.answer()
        assert np.array_equal(labels, expected[0])
        assert np.array_equal(prototypes, expected[1])


def test_deepcluster_labels_are_k_means_of_the_view_that_is_a_sets_turn():
    labels, prototypes = labelled("digits-deepcluster-v2")
    unseen = sorted(set(range(40)) - set(SEEN.flatten().tolist()))
    assert (labels[:, unseen] == UNLABELLED).all()
    for number, centres in enumerate(prototypes.chunk(3)):
        members = [[] for _ in range(6)]
        for step in range(2):
            for place, image in enumerate(SEEN[step].tolist()):
                row = FEATURES[step, number % 2, place]
                # Equation 5: each image is of the centre that is nearest by angle ...
                assert labels[number, image] == (centres @ row).argmax()
                members[labels[number, image]].append(row)
        for centre, rows in zip(centres, members, strict=True):
            # ... and each centre points where its images do together.
            assert torch.allclose(centre, F.normalize(torch.stack(rows).sum(dim=0), dim=0), atol=1e-5)
    # Two sets see the same view and begin elsewhere.
    assert not torch.equal(labels[0], labels[2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digit_folder):
    return {name: train(tmp_path_factory.mktemp(name), digit_folder, name=name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [2, 6, 8])
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path, digit_folder, undisturbed, name, step):
    stopped = train(tmp_path, digit_folder, Listener(at=step), name=name)
    assert stopped.step == step
    done = train(tmp_path, digit_folder, resume="last")
    left, right = (training.load(run.folder / runs.LAST) for run in (undisturbed[name], done))
    for part in ("student", "method"):
        states = getattr(left, part), getattr(right, part)
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), part
    # Every image of the epoch has left its features.
    assert sorted(left.method["memory_index"].tolist()) == list(range(96))
    assert left.method["memory_features"].norm(dim=-1).allclose(torch.ones(96, 2))


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_an_epoch_come_from_the_features_of_the_last(tmp_path, digit_folder, undisturbed, name):
    at_end, early, late = (
        training.load(train(tmp_path, digit_folder, Listener(at=step), name=name).folder / runs.LAST)
        for step in (6, 7, 11)
    )
    # Fixed during the epoch.
    assert torch.equal(early.method["labels"], late.method["labels"])
    assert not torch.equal(at_end.method["labels"], early.method["labels"])
    index = at_end.method["memory_index"]
    for number in range(3):
        features = at_end.method["memory_features"][:, number % 2]
        # Centres are made with the labels; prototypes that learn were there before.
        of = early if "deep" in name else at_end
        scores = features @ of.student["prototypes.weight"].chunk(3)[number].T
        shares = scores if "deep" in name else torch.from_numpy(assigned_by_loops(scores, 0.05, 3))
        assert torch.equal(early.method["labels"][number, index], shares.argmax(dim=1))
    moved = not torch.equal(early.student["prototypes.weight"], late.student["prototypes.weight"])
    assert moved is ("deep" not in name)
    assert late.student["prototypes.weight"].norm(dim=1).allclose(torch.ones(18))


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_comes_down_and_the_run_opens_as_a_model(tmp_path, digit_folder, name):
    listener = Listener()
    changes = {"schedule__epochs": "6", "schedule__knn_epochs": "6", "optimiser__lr": "5e-3"}
    done = train(tmp_path, digit_folder, listener, name=name, **changes)
    assert sum(listener.losses[-6:]) < 0.95 * sum(listener.losses[:6])
    online = journal.entries(done.folder)[-1]
    assert 0 < online["prototypes_used"] <= 1
    assert any("all images are seen once" in text for text in listener.said)
    assert any("3 sets of 6 prototypes" in text for text in listener.said)
    opened = open_model(str(done.folder))
    state = training.load(done.folder / runs.LAST).student
    first = next(key for key in state if key.startswith("trunk."))
    assert torch.equal(opened.network.state_dict()[first.removeprefix("trunk.")], state[first])


@pytest.mark.parametrize("name", METHODS)
def test_multi_crops_and_bfloat16_train(tmp_path, digit_folder, name):
    plain = "grey = 0.0, jitter = [0, 0, 0, 0]"
    views = f"[{{size = 28, count = 2, {plain}}}, {{size = 16, count = 2, to_teacher = false, {plain}}}]"
    changes = {"schedule__epochs": "1", "schedule__precision": "bf16", "views": views}
    done = train(tmp_path, digit_folder, name=name, **changes)
    checkpoint = training.load(done.folder / runs.LAST)
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.student.values())
    assert checkpoint.method["memory_features"].shape == (96, 2, 8)


@pytest.mark.parametrize("name", METHODS)
def test_more_prototypes_than_images_are_refused_before_anything_is_seen(tmp_path, digit_folder, name):
    with pytest.raises(TrainingError, match=r"prototypes\.count is 100 and an epoch has 96 images"):
        train(tmp_path, digit_folder, name=name, prototypes__count="100")


@pytest.mark.parametrize("name", METHODS)
def test_signs_of_collapse_have_their_words(name):
    method = METHODS[name](small(name), device=CPU)
    healthy = {"loss": 1.2, "prototypes_used": 0.8, "effective_rank": 40.0, "largest_cluster": 0.1}
    assert method.warnings(healthy) == {}
    for sign, value, words in (
        ("loss", math.log(6), "ln 6 is 1.79"),
        ("prototypes_used", 0.02, "Only 2.0% of the prototypes"),
        ("effective_rank", 1.1, "span 1.1 directions"),
        ("largest_cluster", 0.8, "80% of the images have one and the same label"),
    ):
        said = method.warnings(healthy | {sign: value})
        assert list(said) == [sign]
        assert words in said[sign]
        assert "optimiser.lr" in said[sign]


def test_the_largest_cluster_is_that_of_the_worst_set():
    labels = torch.tensor([[0, 1, 2, 3, -1], [1, 1, 0, 1, -1]])
    assert largest_share(labels) == 0.75
    assert largest_share(torch.full((2, 3), UNLABELLED)) == 0.0


def test_what_a_method_does_not_have_is_refused():
    with pytest.raises(CardError, match="frozen_epochs"):
        small("digits-deepcluster-v2", prototypes__frozen_epochs="2")
    with pytest.raises(CardError, match="unit_norm"):
        small("digits-sela-v2", prototypes__unit_norm="false")
    with pytest.raises(CardError, match="hard"):
        small("digits-sela-v2", assignment__hard="true")
