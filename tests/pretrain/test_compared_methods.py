"""CARL, and the methods it is compared with: each learns, goes on to the bit, and is judged by its trunk and head."""

import os
import signal

import pytest
import torch

from carp_eval.cards import loading
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.opening import open_model
from carp_eval.data.digits import open_split
from carp_eval.models import network
from carp_eval.pretrain import journal, methods, start
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.method import Step

NAMES = ["carl", "simclr", "byol", "simsiam", "moco-v2", "barlow-twins"]
TEACHERS = {"byol", "moco-v2"}
TINY = {
    "schedule.epochs": "2",
    "schedule.batch_size": "16",
    "schedule.knn_epochs": "0",
    "head.hidden_dim": "16",
    "head.output_dim": "8",
    "optimiser.warmup_epochs": "0",
}
PLAIN_VIEW = "size = 28, flip = 0.0, jitter = [0.4, 0.0, 0.0, 0.0], grey = 0.0"
OWN = {
    "carl": {"prototypes.count": "12", "loss.decay_epochs": "2"},
    "byol": {"predictor.hidden_dim": "16", "predictor.output_dim": "8"},
    "simsiam": {"predictor.hidden_dim": "4", "predictor.output_dim": "8"},
    # One view asks and one is the key, as in the paper; the recipe takes both both ways.
    "moco-v2": {
        "queue.length": "40",
        "teacher.groups": "2",
        "views": f"[{{{PLAIN_VIEW}, to_teacher = false}}, {{{PLAIN_VIEW}}}]",
    },
}


# What the loss of one batch falls by, at the least, in fifteen steps: about half of what it does.
FALL = {"carl": 0.1, "simclr": 1.0, "byol": 1.0, "simsiam": 0.1, "moco-v2": 1.5, "barlow-twins": 10.0}


class Listener:
    """Hears how a training goes, and stops it at a step."""

    def __init__(self, at=None):
        self.said, self.told, self.at = [], [], at

    def step(self, *, step, num_steps, values, told):
        self.told.append(told)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def train(digit_folder, tmp_path):
    """Train a method's recipe for the digits, cut down to six steps an epoch."""

    def run(name, listener=None, *, folder="runs", resume=None, **changes):
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        changes = TINY | OWN.get(name, {}) | {"data.name": f"folder:{digit_folder}"} | changes
        plan = start.plan(
            f"digits-{name}",
            display=listener or Listener(),
            changes=None if resume else changes,
            runs_root=tmp_path / folder,
            device="cpu",
            resume=resume,
        )
        return start.train(plan)

    return run


@pytest.mark.parametrize("name", NAMES)
def test_some_steps_bring_the_loss_down(name):
    wider = {"schedule.batch_size": "32", "head.hidden_dim": "64", "head.output_dim": "32"}
    if name in ("byol", "simsiam"):
        wider["predictor.output_dim"] = "32"
    if name == "moco-v2":
        wider["queue.length"] = "64"
    changes = TINY | OWN.get(name, {}) | wider
    recipe = loading.recipe(f"digits-{name}", changes)
    method = methods.build(recipe, device=torch.device("cpu"))
    optimiser = method.optimiser()
    batch = next(ViewBatches(recipe, open_split("train")).epoch(0))
    losses = []
    for number in range(15):
        step = Step(number, 0, number / 1000)
        loss = method.loss(batch, student=method.student, step=step).total
        method.set_rates(optimiser, 2e-3, step)
        loss.backward()
        method.before_update(step)
        optimiser.step()
        optimiser.zero_grad()
        # A queue would soon be full of the same images: nothing could be told from it.
        if name != "moco-v2":
            method.after_update(step)
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < losses[0] - FALL[name], losses


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_stopped_goes_on_to_the_bit(train, name):
    whole = train(name, folder="whole")
    stopped = train(name, Listener(at=3), folder="stopped")
    assert stopped.step == 3
    done = train(name, folder="stopped", resume="last")
    left, right = (training.load(run.folder / runs.LAST) for run in (whole, done))
    assert left.step == right.step == 12
    assert bool(left.teacher) is (name in TEACHERS)
    assert set(left.method) == ({"queue"} if name == "moco-v2" else set())
    for part in ("student", "teacher", "method"):
        states = getattr(left, part), getattr(right, part)
        assert states[0].keys() == states[1].keys()
        for entry, tensor in states[0].items():
            assert torch.equal(tensor, states[1][entry]), (part, entry)
    assert all(torch.isfinite(tensor).all() for tensor in left.student.values())
    groups = [checkpoint.optimiser["param_groups"] for checkpoint in (left, right)]
    assert [group["lr"] for group in groups[0]] == [group["lr"] for group in groups[1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_judged_by_its_trunk_and_head_of_the_network_that_its_paper_judges(train, name):
    listener = Listener()
    done = train(name, listener, schedule__epochs="1", schedule__knn_epochs="1")
    checkpoint = training.load(done.folder / runs.LAST)
    images = torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)
    for branch in ("student", "teacher") if name in TEACHERS else ("student",):
        state = checkpoint.student if branch == "student" else checkpoint.teacher
        expected = network.build(checkpoint.recipe, seed=1)
        for part in ("trunk", "head"):
            entries = {
                key.removeprefix(f"{part}."): state[key] for key in state if key.startswith(f"{part}.")
            }
            getattr(expected, part).load_state_dict(entries)
        expected.eval()
        pool = open_model(str(done.folder), branch=branch)
        projection = open_model(str(done.folder), branch=branch, layer="projection")
        assert torch.equal(pool.network(images), expected.trunk(images))
        assert torch.equal(projection.network(images), expected.head(expected.trunk(images)))
    assert open_model(str(done.folder)).branch == "student"
    assert any("20-NN student" in text for text in listener.said)
    assert listener.told[0].startswith("loss ")
    assert {"loss", "lr"} <= journal.entries(done.folder)[0].keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_healthy_training_hears_nothing_and_a_collapsed_one_what_to_change(name):
    method = methods.build(
        loading.recipe(f"digits-{name}", TINY | OWN.get(name, {})), device=torch.device("cpu")
    )
    healthy = {"loss": 1.0, "spread": 0.8, "kl": 0.1, "consistency": 1.0, "redundancy": 0.01}
    assert method.warnings(healthy | {"effective_rank": 40.0, "prototypes_used": 0.9}) == {}
    assert method.warnings({}) == {}
    ill = {"loss": 9.0, "spread": 0.01, "kl": 2.4, "consistency": 2.48, "redundancy": 0.9}
    said = method.warnings(ill | {"effective_rank": 1.1, "prototypes_used": 0.01})
    own = {
        "carl": {"kl", "consistency", "prototypes_used"},
        "simclr": {"loss", "spread"},
        "byol": {"spread"},
        "simsiam": {"spread"},
        "moco-v2": {"loss", "spread"},
        "barlow-twins": {"redundancy"},
    }
    assert set(said) == own[name] | {"effective_rank"}
    assert all("optimiser.lr" in words or "Raise loss" in words for words in said.values())
