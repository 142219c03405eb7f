"""What a method may ask of the loop: to be called in order, to keep what it needs, and to go on to the bit."""

import os
import signal
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carp_eval.cards import loading
from carp_eval.cards import methods as cards
from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CardError, UnknownNameError
from carp_eval.models import network
from carp_eval.models.network import Network
from carp_eval.pretrain import journal, methods, start, teacher
from carp_eval.pretrain.method import Losses, Method, Step

CALLS: list[tuple] = []


class QueueCard(Frozen):
    length: int


class ContrastRecipe(RecipeCard):
    method: Literal["contrast"]
    queue: QueueCard


class Student(Network):
    """A network whose forward pass gives a pair, with a part that no evaluation knows."""

    def __init__(self, recipe):
        super().__init__(recipe)
        self.predictor = nn.Linear(recipe.head.output_dim, recipe.head.output_dim)

    def forward(self, images):
        projected = super().forward(images)
        return projected, self.predictor(projected)


class Contrast(Method[ContrastRecipe]):
    """A method with all that the seam has: predictor, teacher, queue, what an epoch decides, groups of its own.

    Views are told from a queue of what the teacher saw before, and pulled to a centre of each image's group: groups are
    drawn anew from the features of all images, before each epoch.
    """

    sign_names: ClassVar = {"agreement": "agreement"}

    def __init__(self, recipe: ContrastRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = Student(recipe).to(device)
        self.teacher = teacher.copy_of(network.build(recipe, seed=recipe.seed))
        self.queue = torch.zeros(recipe.queue.length, recipe.head.output_dim)
        self.groups = torch.zeros(0, dtype=torch.int64)
        self.centres = torch.zeros(2, recipe.head.output_dim)

    def start_epoch(self, epoch, batches):
        CALLS.append(("start_epoch", epoch))
        self.groups = torch.full((batches.num_images,), -1)
        sums = torch.zeros_like(self.centres)
        with torch.no_grad():
            for batch in batches.epoch(epoch):
                seen = self.teacher(batch.views[0])
                self.groups[batch.index] = group = (seen[:, 0] > 0).long()
                sums.index_add_(0, group, seen)
        self.centres = F.normalize(sums)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        CALLS.append(("loss", step.number, step.epoch))
        assert (self.groups[batch.index] >= 0).all()
        _, predicted = student(batch.views[0])
        with torch.no_grad():
            target = F.normalize(self.teacher(batch.views[1]))
        predicted = F.normalize(predicted)
        logits = torch.cat([(predicted * target).sum(1, keepdim=True), predicted @ self.queue.T], 1) / 0.2
        total = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        total = total - (predicted * self.centres[self.groups[batch.index]]).sum(1).mean()
        self.queue = torch.cat([target, self.queue])[: len(self.queue)]
        return Losses(total, {"queue": self.queue.norm()})

    def optimiser(self):
        CALLS.append(("optimiser",))
        own = list(self.student.predictor.parameters())
        others = [*self.student.trunk.parameters(), *self.student.head.parameters()]
        return torch.optim.SGD([{"params": others}, {"params": own}], lr=0.01, momentum=0.9)

    def set_rates(self, optimiser, rate, step):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.param_groups[1]["lr"] = 0.05

    def before_update(self, step):
        CALLS.append(("before", step.number, self.student.predictor.weight.grad is not None, weight(self)))

    def after_update(self, step):
        CALLS.append(("after", step.number, weight(self)))
        teacher.follow(self.teacher.trunk, self.student.trunk, momentum=0.9)
        teacher.follow(self.teacher.head, self.student.head, momentum=0.9)

    def state(self):
        return {"queue": self.queue, "groups": self.groups, "centres": self.centres}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        self.queue, self.groups, self.centres = state["queue"], state["groups"], state["centres"]

    def signs(self, network, embeddings):
        assert isinstance(network, Network)
        return {"agreement": 0.25}


def weight(method) -> float:
    return method.student.predictor.weight.sum().item()


class Listener:
    def __init__(self, at=None):
        self.said, self.told, self.at = [], [], at

    def step(self, *, step, num_steps, values, told):
        self.told.append(told)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text):
        self.said.append(text)


RECIPE = """
version = 1
method = "contrast"
summary = "a method of the tests"
[data]
name = "folder:{folder}"
mean = [0.12]
std = [0.264]
augment = "per_batch"
[trunk]
architecture = "small"
channels = 1
[head]
num_layers = 2
hidden_dim = 16
output_dim = 8
[queue]
length = 24
[[views]]
size = 28
count = 2
grey = 0.0
jitter = [0.2, 0.0, 0.0, 0.0]
[optimiser]
name = "sgd"
lr = 0.02
[schedule]
epochs = 2
batch_size = 16
"""


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(methods.METHODS, "contrast", Contrast)
    monkeypatch.setitem(cards.TYPES, "contrast", ContrastRecipe)


@pytest.fixture
def recipe(tmp_path, digit_folder):
    path = tmp_path / "contrast.toml"
    path.write_text(RECIPE.format(folder=digit_folder))
    return path


def train(recipe, root, listener=None, *, resume=None, **changes):
    plan = start.plan(
        str(recipe),
        display=listener or Listener(),
        changes=None if resume else {key.replace("__", "."): value for key, value in changes.items()},
        runs_root=root,
        device="cpu",
        resume=resume,
    )
    return start.train(plan)


def test_a_method_is_called_in_its_order(recipe, tmp_path):
    listener = Listener()
    done = train(recipe, tmp_path / "runs", listener, schedule__knn_epochs="2")
    steps = [call for call in CALLS if call[0] != "optimiser"]
    names = [call[0] for call in steps]
    assert names == (["start_epoch"] + ["loss", "before", "after"] * 6) * 2
    assert [call[1:] for call in steps if call[0] == "loss"] == [(step, step // 6) for step in range(12)]
    for before, after in pairwise(steps):
        if before[0] == "before":
            assert before[2] is True
            assert before[3] != after[2]
    assert CALLS.count(("optimiser",)) == 1
    assert listener.told[0].startswith("loss ")
    assert "queue" in listener.told[0]
    assert any("agreement 25%" in text for text in listener.said)
    entry = journal.entries(done.folder)[0]
    assert {"loss", "queue", "lr"} <= entry.keys()


@pytest.mark.parametrize("step", [3, 6])
def test_what_a_method_keeps_outlives_a_stop_to_the_bit(recipe, tmp_path, step):
    whole = train(recipe, tmp_path / "whole")
    CALLS.clear()
    stopped = train(recipe, tmp_path / "stopped", Listener(at=step))
    assert stopped.step == step
    done = train(recipe, tmp_path / "stopped", resume="last")
    # In the midst of an epoch, what its start decided is taken from the checkpoint, not made again.
    assert [call for call in CALLS if call[0] == "start_epoch"] == [("start_epoch", 0), ("start_epoch", 1)]
    left, right = (training.load(run.folder / runs.LAST) for run in (whole, done))
    for part in ("student", "teacher", "method"):
        states = getattr(left, part), getattr(right, part)
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), part
    assert left.method["queue"].norm() > 0
    groups = [checkpoint.optimiser["param_groups"] for checkpoint in (left, right)]
    assert [group["lr"] for group in groups[0]] == [group["lr"] for group in groups[1]]
    assert groups[0][1]["lr"] == 0.05


def test_a_run_is_judged_by_its_trunk_and_head_whatever_else_the_method_has(recipe, tmp_path):
    done = train(recipe, tmp_path / "runs", schedule__epochs="1")
    checkpoint = training.load(done.folder / runs.LAST)
    assert {"predictor.weight", "trunk.0.weight"} <= checkpoint.student.keys()
    images = torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)
    for branch, state in (("student", checkpoint.student), ("teacher", checkpoint.teacher)):
        expected = Student(checkpoint.recipe)
        expected.load_state_dict(state, strict=False)
        expected.eval()
        pool = open_model(str(done.folder), branch=branch)
        projection = open_model(str(done.folder), branch=branch, layer="projection")
        assert torch.equal(pool.network(images), expected.trunk(images))
        assert torch.equal(projection.network(images), expected.head(expected.trunk(images)))


def test_a_method_has_its_own_tables_and_no_others(recipe):
    with pytest.raises(CardError, match=r"Did you mean queue.length"):
        loading.recipe(str(recipe), {"queue.lenght": "3"})
    with pytest.raises(CardError, match="prototypes"):
        loading.recipe(str(recipe), {"prototypes.count": "3"})
    with pytest.raises(CardError, match=r"queue"):
        loading.recipe("digits", {"queue.length": "3"})
    with pytest.raises(UnknownNameError, match="Did you mean contrast"):
        loading.recipe(str(recipe), {"method": "contrats"})
    with pytest.raises(CardError, match="method"):
        loading.recipe(str(recipe), {"method": "3"})


def test_every_method_has_a_recipe_and_every_recipe_a_method():
    assert set(methods.METHODS) == set(cards.TYPES)
    assert loading.recipe("digits").method == "carp"
