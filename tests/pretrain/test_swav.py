import math

import pytest
import torch
from torch import nn

from carp_eval import distributed
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CardError
from carp_eval.pretrain import journal
from carp_eval.pretrain.method import Step
from carp_eval.pretrain.swav import Swav
from tests.pretrain.assigning import Listener, small, train
from tests.pretrain.in_processes import halves, whole

QUEUE = {"queue__length": "32", "queue__start_epoch": "0"}


def embeddings_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(embeddings):
    """A batch whose views are the embeddings themselves: the network that flattens them leaves them as they are."""
    return TrainingBatch([view[..., None, None] for view in embeddings], torch.arange(embeddings.shape[1]))


def pseudo_code(batches, prototypes, *, count_assigned=2, queue_length=0, hard=False, iterations=3):
    """A.1's pseudo-code and A.6's queue in plain loops and float64, from batches of embeddings; the last one's loss."""

    def unit(rows):
        return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]

    def score(rows):
        return [[sum(a * b for a, b in zip(row, centre)) for centre in centres] for row in rows]

    centres = unit(prototypes.double().tolist())
    queues = [[] for _ in range(count_assigned)]
    for batch in batches:
        views = [unit(view) for view in batch.double().tolist()]
        loss, images = 0.0, len(views[0])
        for view in range(count_assigned):
            earlier = queues[view] if queue_length and len(queues[view]) == queue_length else []
            shares = [[math.exp(s / 0.05) for s in row] for row in score(views[view] + earlier)]
            for _ in range(iterations):
                columns = [sum(row[k] for row in shares) for k in range(len(centres))]
                shares = [[x / total for x, total in zip(row, columns)] for row in shares]
                shares = [[x / sum(row) for x in row] for row in shares]
            if hard:
                shares = [[float(x == max(row)) for x in row] for row in shares]
            for other in range(len(views)):
                if other == view:
                    continue
                for image, row in enumerate(score(views[other])):
                    norm = math.log(sum(math.exp(s / 0.1) for s in row))
                    loss -= sum(q * (s / 0.1 - norm) for q, s in zip(shares[image], row)) / images
            queues[view] = (views[view] + queues[view])[:queue_length]
        loss /= count_assigned * (len(views) - 1)
    return loss


@pytest.mark.parametrize(
    ("changes", "views", "options"),
    [
        ({}, 2, {}),
        ({"assignment__hard": "true"}, 2, {"hard": True}),
        ({"assignment__iterations": "1"}, 2, {"iterations": 1}),
        ({}, 5, {}),
        (QUEUE, 2, {"queue_length": 32}),
    ],
)
def test_losses_of_a_few_steps_are_those_of_the_pseudo_code(changes, views, options):
    crops = {"views": "[{size = 28, count = 2}, {size = 16, count = 3, to_teacher = false}]"}
    method = Swav(
        small("digits-swav", **({"assignment__epsilon": "0.05"} | changes | (crops if views == 5 else {}))),
        device=torch.device("cpu"),
    )
    batches = [embeddings_of(views, 16, 8, seed=number) for number in range(4)]
    for number, batch in enumerate(batches):
        losses = method.loss(given(batch), student=nn.Flatten(), step=Step(number, 0, 0.0))
        wanted = pseudo_code(batches[: number + 1], method.student.prototypes.weight, **options)
        assert losses.total.item() == pytest.approx(wanted, rel=1e-4)
    if options.get("queue_length"):
        # From the third step on, the queue of two batches is full and moves the loss.
        without = pseudo_code(batches, method.student.prototypes.weight)
        assert losses.total.item() != pytest.approx(without, rel=1e-3)
        assert losses.shown["queue_filled"] == 1.0


def test_a_queue_waits_for_its_epoch():
    method = Swav(
        small("digits-swav", queue__length="16", queue__start_epoch="1"), device=torch.device("cpu")
    )
    for epoch, expected in ((0, 0.0), (0, 0.0), (1, 1.0)):
        losses = method.loss(given(embeddings_of(2, 16, 8)), student=nn.Flatten(), step=Step(9, epoch, 0.0))
        assert losses.shown["queue_filled"] == expected


def test_a_process_with_32_images_is_two_with_16(tmp_path):
    recipe = small("digits-swav", schedule__batch_size="32", queue__length="64", queue__start_epoch="0")

    def loss_of(embeddings):
        method = Swav(recipe, device=torch.device("cpu"))
        own = slice(16 * distributed.rank(), 16 * distributed.rank() + embeddings.shape[1])
        for number in (1, 2):
            earlier = embeddings_of(2, 32, 8, seed=number)[:, own]
            method.loss(given(earlier), student=nn.Flatten(), step=Step(number, 0, 0.0))
        # The queue goes through a checkpoint on its way: each process finds its own share again.
        resumed = Swav(recipe, device=torch.device("cpu"))
        resumed.take_state(method.state())
        return resumed.loss(given(embeddings), student=nn.Flatten(), step=Step(3, 0, 0.0)).total

    embeddings = embeddings_of(2, 32, 8)
    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert losses == pytest.approx([expected, expected], rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digit_folder):
    return train(tmp_path_factory.mktemp("undisturbed"), digit_folder, **QUEUE)


# The queue is filling, full at the end of an epoch, and full in the midst of one.
@pytest.mark.parametrize("step", [1, 6, 8])
def test_a_run_that_was_stopped_goes_on_to_the_bit_with_its_queue(tmp_path, digit_folder, undisturbed, step):
    stopped = train(tmp_path / "stopped", digit_folder, Listener(at=step), **QUEUE)
    assert stopped.step == step
    done = train(tmp_path / "stopped", digit_folder, resume="last")
    left, right = (training.load(run.folder / runs.LAST) for run in (undisturbed, done))
    for part in ("student", "method"):
        states = getattr(left, part), getattr(right, part)
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), part
    assert left.method["queue"].shape == (32, 2, 8)
    assert left.method["queue"].norm(dim=-1).allclose(torch.ones(32, 2))


def test_prototypes_are_of_unit_length_frozen_at_first_and_learned_later_or_never(tmp_path, digit_folder):
    def prototypes(**changes):
        done = train(tmp_path, digit_folder, **changes)
        return training.load(done.folder / runs.LAST).student["prototypes.weight"]

    fresh = Swav(small("digits-swav"), device=torch.device("cpu")).student.prototypes.weight
    assert fresh.norm(dim=1).allclose(torch.ones(6))
    assert torch.equal(prototypes(schedule__epochs="1"), fresh)
    assert not torch.equal(prototypes(schedule__epochs="1", prototypes__frozen_epochs="0"), fresh)
    learned = prototypes()
    assert (learned - fresh).norm() > 1e-3
    assert learned.norm(dim=1).allclose(torch.ones(6))
    assert torch.equal(prototypes(prototypes__learned="false"), fresh)


def test_the_loss_comes_down_and_the_run_opens_as_a_model(tmp_path, digit_folder):
    listener = Listener()
    done = train(
        tmp_path, digit_folder, listener, schedule__epochs="6", schedule__knn_epochs="6", optimiser__lr="5e-3"
    )
    assert sum(listener.losses[-6:]) < 0.95 * sum(listener.losses[:6])
    online = journal.entries(done.folder)[-1]
    assert 0 < online["prototypes_used"] <= 1
    assert online["effective_rank"] > 1
    assert any("prototypes used" in text for text in listener.said)
    opened = open_model(str(done.folder))
    state = training.load(done.folder / runs.LAST).student
    first = next(name for name in state if name.startswith("trunk."))
    assert torch.equal(opened.network.state_dict()[first.removeprefix("trunk.")], state[first])
    assert open_model(str(done.folder), layer="projection").feature_dim == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule__precision": "bf16"},
        {"optimiser__name": "lars", "optimiser__lr": "0.1"},
        {"assignment__hard": "true", "prototypes__learned": "false"},
        {
            "views": "[{size = 28, count = 2, grey = 0.0, jitter = [0, 0, 0, 0]}, "
            "{size = 16, count = 2, to_teacher = false, grey = 0.0, jitter = [0, 0, 0, 0]}]"
        },
    ],
)
def test_variants_train(tmp_path, digit_folder, changes):
    done = train(tmp_path, digit_folder, schedule__epochs="1", **changes)
    state = training.load(done.folder / runs.LAST).student
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_signs_of_collapse_have_their_words():
    method = Swav(small("digits-swav"), device=torch.device("cpu"))
    healthy = {"loss": 1.2, "prototypes_used": 0.8, "effective_rank": 40.0}
    assert method.warnings(healthy) == {}
    for sign, value, words in (
        ("loss", math.log(6), "ln 6 is 1.79"),
        ("prototypes_used", 0.02, "Only 2.0% of the prototypes"),
        ("effective_rank", 1.1, "span 1.1 directions"),
    ):
        said = method.warnings(healthy | {sign: value})
        assert list(said) == [sign]
        assert words in said[sign]
        assert "assignment.epsilon" in said[sign]


def test_a_small_batch_is_told_of_the_queue():
    def notes(**changes):
        return Swav(small("digits-swav", **changes), device=torch.device("cpu")).notes()

    assert notes() == []
    assert "queue.length" in notes(prototypes__count="100")[0]
    assert notes(prototypes__count="100", queue__length="64") == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(CardError, match=r"no multiple of schedule\.batch_size, 16"):
        small("digits-swav", queue__length="24")
    with pytest.raises(CardError, match="change their order"):
        small("digits-swav", views="[{size = 28, to_teacher = false}, {size = 28}]")
    with pytest.raises(CardError, match="at least one view must go to the teacher"):
        small("digits-swav", views="[{size = 28, count = 2, to_teacher = false}]")
    with pytest.raises(CardError, match="sets"):
        small("digits-swav", prototypes__sets="2")
