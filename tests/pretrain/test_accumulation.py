"""Accumulation: exact, it is a step of the whole batch; by micro-batch, a mean of smaller ones."""

import os
import signal
import weakref
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from carp_eval.cards import loading
from carp_eval.checkpoints import runs, training
from carp_eval.data.digits import open_split
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CardError, PluginError, UsageError
from carp_eval.pretrain import accumulation, gradients, loop, methods, start
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.estimate import estimate
from carp_eval.pretrain.method import Step
from tests.pretrain.test_compared_methods import OWN, TINY
from tests.pretrain.whole_steps import CASES, apart, batch_of, by_two, in_double, recipe_of, step_of

EACH = {"schedule__accumulation": '"per_micro_batch"'}
FOUR = {"schedule__micro_batches": "4"}
TWO = {"schedule__micro_batches": "2"}


@pytest.fixture(scope="module")
def batches():
    return ViewBatches(recipe_of("carp"), open_split("test"))


@pytest.fixture(scope="module")
def in_one_process(batches):
    with pytest.MonkeyPatch.context() as patch:
        in_double(patch)
        return {case: step_of(case, batches) for case in CASES}


@pytest.fixture(scope="module")
def in_two_processes(batches, tmp_path_factory):
    jobs = [(case, changes) for changes in ({}, TWO) for case in CASES]
    with pytest.MonkeyPatch.context() as patch:
        in_double(patch)
        taken = by_two(jobs, batches, tmp_path_factory.mktemp("two"))
    return {(case, bool(changes)): step for (case, changes), step in zip(jobs, taken, strict=True)}


def test_every_method_is_here():
    assert {name for name, _ in CASES.values()} == set(methods.METHODS)


@pytest.mark.parametrize("case", CASES)
def test_four_micro_batches_of_8_are_a_batch_of_32(monkeypatch, batches, in_one_process, case):
    in_double(monkeypatch)
    loss, found = step_of(case, batches, **FOUR)
    expected, wanted = in_one_process[case]
    assert loss == pytest.approx(expected, rel=1e-7)
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_of_16_images_are_one_of_32(in_one_process, in_two_processes, case, micro_batches):
    loss, found = in_two_processes[case, micro_batches > 1]
    expected, wanted = in_one_process[case]
    assert loss == pytest.approx(expected, rel=1e-5)
    assert apart(found, wanted) < 1e-5


def test_a_loss_of_each_micro_batch_is_another_for_carp(monkeypatch, batches, in_one_process):
    in_double(monkeypatch)
    _, found = step_of("carp", batches, **FOUR, **EACH)
    assert apart(found, in_one_process["carp"][1]) > 0.1
    # Of SimSiam, whose loss is a mean over images, it is the same: what differs is the loss and not its sum.
    _, found = step_of("simsiam", batches, **FOUR, **EACH)
    assert apart(found, in_one_process["simsiam"][1]) < 1e-5


@pytest.mark.parametrize("case", ["carp", "moco-v2", "swav"])
def test_a_loss_of_each_micro_batch_is_the_mean_of_small_steps(monkeypatch, batches, case):
    in_double(monkeypatch)
    loss, found = step_of(case, batches, **FOUR, **EACH)
    recipe = recipe_of(case)
    method = methods.build(recipe, device=torch.device("cpu"))
    whole, losses = batch_of(recipe), []
    for number in range(4):
        own = slice(8 * number, 8 * number + 8)
        part = TrainingBatch([view[own] for view in whole.views], whole.index[own])
        # Each with a partition of its own.
        total = method.loss(part, student=method.student, step=Step(number, 0, 0.0)).total
        total.backward()
        losses.append(total.item())
    wanted = {name: parameter.grad / 4 for name, parameter in method.student.named_parameters()}
    assert loss == pytest.approx(sum(losses) / 4, rel=1e-9)
    assert apart(found, wanted) < 1e-9


class InParts(nn.Module):
    """What exact accumulation says it is, with all activations kept: parts of 8 images, embedded one by one."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        views = images.split(32)
        parts = [self.network(torch.cat([view[k : k + 8] for view in views])) for k in range(0, 32, 8)]
        if isinstance(parts[0], torch.Tensor):
            return self._joined(parts, len(views))
        return tuple(self._joined(part, len(views)) for part in zip(*parts, strict=True))

    @staticmethod
    def _joined(parts, num_views):
        return torch.cat([torch.cat([part.split(8)[view] for part in parts]) for view in range(num_views)])


def randomly(recipe, batches, monkeypatch):
    """Start a training whose student drops embeddings at random; BatchNorm learns."""
    in_double(monkeypatch, frozen=False)
    state = loop.Training(recipe, batches=batches, accelerator=Accelerator(cpu=True), resume=None)
    state.method.student.head.append(nn.Dropout(0.5))
    monkeypatch.setattr(state.method, "before_update", lambda step: None)
    monkeypatch.setattr(state.optimiser, "step", lambda: None)
    monkeypatch.setattr(state.optimiser, "zero_grad", lambda set_to_none: None)
    return state


@pytest.mark.parametrize("case", ["carp, siamese", "carl", "simsiam", "swav, multi-crop"])
def test_chance_is_replayed_and_statistics_move_once(monkeypatch, batches, case):
    state = randomly(recipe_of(case, **FOUR), batches, monkeypatch)
    student, batch = state.method.student, batch_of(state.recipe)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    torch.manual_seed(0)
    loss = state.take_step(batch)["loss"]
    after, drawn = {name: value.clone() for name, value in student.named_buffers()}, torch.rand(1)
    found = {name: parameter.grad for name, parameter in student.named_parameters()}
    student.load_state_dict(before)
    student.zero_grad()
    torch.manual_seed(0)
    total = state.method.loss(batch, student=InParts(student), step=Step(0, 0, 0.0)).total
    total.backward()
    wanted = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert loss == pytest.approx(total.item(), rel=1e-9)
    assert apart(found, wanted) < 1e-9
    for name, value in student.named_buffers():
        assert torch.allclose(after[name], value, rtol=1e-9), name
        assert not torch.equal(after[name], before[name]), name
    # Later chance is where the forward passes left it.
    assert torch.equal(drawn, torch.rand(1))


def test_the_teacher_embeds_in_micro_batches_too(monkeypatch, batches):
    state = randomly(recipe_of("carp", **FOUR), batches, monkeypatch)
    teacher, batch, rows = state.method.teacher, batch_of(state.recipe), []
    teacher.trunk.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    monkeypatch.setattr(state.method, "after_update", lambda step: None)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    state.take_step(batch)
    assert rows == [16, 16, 16, 16]
    after = {name: value.clone() for name, value in teacher.named_buffers()}
    teacher.load_state_dict(before)
    with torch.no_grad():
        InParts(teacher)(torch.cat(batch.views))
    for name, value in teacher.named_buffers():
        assert torch.allclose(after[name], value, rtol=1e-9), name
    # The whole batch again, once the step is over.
    teacher(torch.cat(batch.views))
    assert rows[-1] == 64


def test_both_passes_are_in_bfloat16(batches):
    recipe = recipe_of("carp", **FOUR, schedule__precision='"bf16"')
    state = loop.Training(recipe, batches=batches, accelerator=Accelerator(cpu=True), resume=None)
    kinds = []
    state.method.student.head.register_forward_hook(
        lambda _, given, output: kinds.append((torch.is_grad_enabled(), output.dtype))
    )
    state.take_step(batch_of(recipe, dtype=torch.float32))
    assert kinds == [(False, torch.bfloat16)] * 4 + [(True, torch.bfloat16)] * 4


class Kept:
    """A tensor that autograd holds on to."""

    def __init__(self, tensor):
        self.tensor = tensor


def most_kept(batches, **changes):
    """Return the most bytes that autograd holds at a time in a step."""
    recipe = recipe_of("carp", **changes)
    state = loop.Training(recipe, batches=batches, accelerator=Accelerator(cpu=True), resume=None)
    now, most, weights = 0, 0, {parameter.data_ptr() for parameter in state.method.student.parameters()}

    def let_go(size):
        nonlocal now
        now -= size

    def keep(tensor):
        nonlocal now, most
        kept = Kept(tensor)
        size = 0 if tensor.data_ptr() in weights else tensor.numel() * tensor.element_size()
        now += size
        most = max(most, now)
        weakref.finalize(kept, let_go, size)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        state.take_step(batch_of(recipe, dtype=torch.float32))
    return most


@pytest.mark.parametrize("accumulation", ["exact", "per_micro_batch"])
def test_activations_of_one_micro_batch_are_kept_at_a_time(batches, accumulation):
    cut = most_kept(batches, **FOUR, schedule__accumulation=f'"{accumulation}"')
    assert cut < 0.3 * most_kept(batches)


def test_the_estimate_knows_of_micro_batches():
    def needed(**changes):
        recipe = recipe_of("carp", **changes)
        method = methods.build(recipe, device=torch.device("cpu"))
        return estimate(recipe, method, num_steps=10, world_size=1, device=torch.device("cpu")).bytes_needed

    assert needed(**FOUR) < 0.5 * needed()


def test_what_cannot_be_cut_is_said(batches):
    with pytest.raises(CardError, match=r"micro_batches is 5 and does not divide batch_size, 32"):
        recipe_of("carp", schedule__micro_batches="5")
    recipe = recipe_of("carp", schedule__micro_batches="32")
    network = methods.build(recipe, device=torch.device("cpu")).student
    with pytest.raises(UsageError, match=r"16 images in a step of one process .* 32 micro-batches .* as 16"):
        gradients.cut_of(recipe, network, world_size=2)
    with pytest.raises(UsageError, match="BatchNorm needs several"):
        loop.Training(recipe, batches=batches, accelerator=Accelerator(cpu=True), resume=None)
    assert gradients.cut_of(recipe, nn.Flatten(), world_size=1).count == 32


def test_a_network_without_a_row_for_each_image_is_refused():
    class Stacked(nn.Module):
        def forward(self, images):
            return torch.stack([images, images])

    with pytest.raises(PluginError, match=r"of 4 images came a tensor of shape \[2, 4, 3\]"):
        accumulation.Student(Stacked(), accumulation.Cut(8, 2))(torch.zeros(8, 3))


@pytest.mark.parametrize("num_rows", [1, 3, 7, 8, 16, 20])
def test_every_row_comes_back_in_its_place(num_rows):
    student = accumulation.Student(nn.Identity(), accumulation.Cut(8, 4))
    images = torch.randn(num_rows, 2)
    assert torch.equal(student(images), images)
    with torch.no_grad():
        assert torch.equal(student(images), images)
    assert all(len(rows) <= 2 * max(1, num_rows // 8) for rows in accumulation.Cut(8, 4).rows(num_rows))


class Listener:
    def __init__(self, at=None):
        self.at = at

    def step(self, *, step, num_steps, values, told):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, text):
        pass


@pytest.mark.parametrize(
    ("name", "how"),
    [("carl", "exact"), ("moco-v2", "per_micro_batch"), ("deepcluster-v2", "per_micro_batch")],
)
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path, digit_folder, name, how):
    own = {"prototypes.count": "12"} if name == "deepcluster-v2" else OWN[name]
    changes = TINY | own | {"data.name": f"folder:{digit_folder}", "schedule.micro_batches": "4"}
    changes["schedule.accumulation"] = f'"{how}"'

    def train(folder, *, at=None, resume=None):
        plan = start.plan(
            f"digits-{name}",
            display=Listener(at),
            changes=None if resume else changes,
            runs_root=tmp_path / folder,
            device="cpu",
            resume=resume,
        )
        return start.train(plan)

    whole = train("whole")
    assert train("stopped", at=8).step == 8
    done = train("stopped", resume="last")
    left, right = (training.load(run.folder / runs.LAST) for run in (whole, done))
    assert left.step == right.step == 12
    assert (left.recipe.schedule.micro_batches, left.recipe.schedule.accumulation) == (4, how)
    for part in ("student", "teacher", "method"):
        states = getattr(left, part), getattr(right, part)
        assert states[0].keys() == states[1].keys()
        for entry, tensor in states[0].items():
            assert torch.equal(tensor, states[1][entry]), (part, entry)
    if name == "deepcluster-v2":
        # Each image of the epoch has its place, whichever micro-batch it was in.
        assert sorted(left.method["memory_index"].tolist()) == list(range(96))
    assert replace(left, step=0).recipe == loading.recipe(f"digits-{name}", changes)
