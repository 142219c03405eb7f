import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from carp_eval.cards import loading
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CardError
from carp_eval.pretrain.method import Step
from tests.features.processes import Started
from tests.pretrain.one_step import FIRST, batch_of, method_of, take_step
from tests.pretrain.test_moco_loss import by_loops


def test_the_loss_is_that_of_loops_of_queries_keys_and_queue():
    method = method_of("moco-v2")
    # Frozen statistics: an image's key is then the same in whatever group it is shuffled to.
    method.teacher.eval()
    batch = batch_of(16, 28, 28)
    with torch.no_grad():
        queries, keys = method.student(batch.views[0]), method.teacher(batch.views[1])
    expected = by_loops(queries[None], keys[None], method.queue.keys, 0.2)
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(expected, rel=1e-4)


def test_a_step_moves_the_teacher_and_puts_its_keys_into_the_queue_afterwards():
    method = method_of("moco-v2", teacher__momentum="0.75")
    method.teacher.eval()
    batch = batch_of(16, 28, 28)
    with torch.no_grad():
        keys = functional.normalize(method.teacher(batch.views[1]))
    queue = method.queue.keys.clone()
    before = [tensor.clone() for tensor in method.teacher.parameters()]
    method.loss(batch, student=method.student, step=FIRST)
    assert torch.equal(method.queue.keys, queue)
    take_step(method, batch)
    assert torch.allclose(method.queue.keys[:16], keys, atol=1e-6)
    assert torch.equal(method.queue.keys[16:], queue[16:])
    for slow, old, fast in zip(method.teacher.parameters(), before, method.student.parameters(), strict=True):
        assert torch.allclose(slow, 0.75 * old + 0.25 * fast, atol=1e-6)


def test_each_group_of_keys_has_statistics_of_its_own():
    images = batch_of(16, 28, 28)
    sides = []
    for groups in ("1", "2", "4"):
        method = method_of("moco-v2", teacher__groups=groups)
        calls = []
        method.teacher.register_forward_pre_hook(
            lambda _module, given, calls=calls: calls.append(len(given[0]))
        )
        method.loss(images, student=method.student, step=FIRST)
        assert calls == [16 // int(groups)] * int(groups)
        method.after_update(FIRST)
        sides.append(method.queue.keys[:16])
    assert not torch.allclose(sides[0], sides[1], atol=1e-3)
    assert not torch.allclose(sides[1], sides[2], atol=1e-3)


def test_the_shuffle_is_another_in_each_step_and_the_same_in_each_run():
    images = batch_of(16, 28, 28)

    def keys_at(number):
        method = method_of("moco-v2")
        step = Step(number, 0, 0.0)
        method.loss(images, student=method.student, step=step)
        method.after_update(step)
        places = (torch.arange(16) + 16 * number) % 40
        return method.queue.keys[places]

    assert torch.equal(keys_at(0), keys_at(0))
    assert not torch.allclose(keys_at(0), keys_at(1), atol=1e-4)


def test_two_processes_make_the_keys_and_the_queue_of_one(tmp_path):
    whole = method_of("moco-v2")
    batch = batch_of(16, 28, 28)
    whole.student.eval()
    loss = take_step(whole, batch, rate=0.0).total.item()
    started = [Started(_half_of_a_step, str(tmp_path / "store"), rank) for rank in (0, 1)]
    answers = [process.answer() for process in started]
    assert None not in answers
    assert sum(answer[0] for answer in answers) / 2 == pytest.approx(loss, rel=1e-5)
    for _, queue in answers:
        found = torch.tensor(queue)
        assert (found - whole.queue.keys).norm() <= 1e-5 * found.norm()


def _half_of_a_step(store, rank):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        method = method_of("moco-v2")
        method.student.eval()
        whole = batch_of(16, 28, 28)
        mine = TrainingBatch([view.chunk(2)[rank] for view in whole.views], whole.index.chunk(2)[rank])
        loss = take_step(method, mine, rate=0.0).total.item()
        return loss, method.queue.keys.tolist()
    finally:
        dist.destroy_process_group()


def test_what_does_not_fit_is_refused():
    with pytest.raises(CardError, match=r"queue\.length is 32, and each step brings 128 keys"):
        loading.recipe("digits-moco-v2", {"queue.length": "32"})
    with pytest.raises(CardError, match=r"teacher\.groups 40: each group needs at least two"):
        loading.recipe("digits-moco-v2", {"teacher.groups": "40"})
