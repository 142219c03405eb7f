import pytest
import torch

from carp_eval.cards import loading
from carp_eval.errors import CardError
from carp_eval.pretrain.method import Step
from tests.pretrain.one_step import FIRST, batch_of, method_of, take_step
from tests.pretrain.test_cosine_loss import cosines


def test_the_loss_is_that_of_loops_over_both_directions():
    method = method_of("byol")
    # A teacher that is not the student, so that the one is not taken for the other.
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.ones_like(parameter).cumsum(0).sin())
    batch = batch_of(6, 28, 28)
    with torch.no_grad():
        projected = [method.student.head(method.student.trunk(view)) for view in batch.views]
        predicted = torch.stack([method.student.predictor(rows) for rows in projected])
        targets = torch.stack([method.teacher(view) for view in reversed(batch.views)])
    found = cosines(predicted, targets)
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(
        sum(4 - 4 * cosine for cosine in found) / len(found), rel=1e-4
    )


def test_the_teacher_starts_as_the_student_and_follows_what_the_step_has_moved():
    method = method_of("byol", teacher__momentum="0.75", teacher__final_momentum="1.0")
    before = {name: tensor.clone() for name, tensor in method.teacher.named_parameters()}
    start = dict(method.student.named_parameters())
    assert before.keys() == {name for name in start if not name.startswith("predictor.")}
    assert all(torch.equal(tensor, start[name]) for name, tensor in before.items())
    # At half of a cosine from 0.75 to 1.
    take_step(method, batch_of(6, 28, 28), step=Step(3, 0, 0.5))
    after = dict(method.student.named_parameters())
    for name, tensor in method.teacher.named_parameters():
        assert tensor.grad is None
        assert torch.allclose(tensor, 0.875 * before[name] + 0.125 * after[name], atol=1e-6), name
    assert not torch.equal(before["head.0.weight"], after["head.0.weight"])


def test_local_views_are_predicted_from_and_not_predicted():
    views = (
        "[{size = 28, count = 2, grey = 0.0, jitter = [0.4, 0.4, 0.0, 0.0]}, "
        "{size = 16, to_teacher = false, grey = 0.0, jitter = [0.4, 0.4, 0.0, 0.0]}]"
    )
    method = method_of("byol", views=views)
    batch = batch_of(6, 28, 28, 16)
    with torch.no_grad():
        predicted = [method.student(view)[1] for view in batch.views]
        targets = [method.teacher(view) for view in batch.views[:2]]
    pairs = [(0, 1), (1, 0), (2, 0), (2, 1)]
    found = cosines(
        torch.stack([predicted[a] for a, _ in pairs]), torch.stack([targets[b] for _, b in pairs])
    )
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(
        sum(4 - 4 * cosine for cosine in found) / len(found), rel=1e-4
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(CardError, match=r"predictor\.output_dim is 64 and head\.output_dim 128"):
        loading.recipe("digits-byol", {"predictor.output_dim": "64"})
    with pytest.raises(CardError, match=r"teacher\.kind"):
        loading.recipe("digits-byol", {"teacher.kind": "none"})
    with pytest.raises(CardError, match="at least one view must go to the teacher"):
        loading.recipe("digits-byol", {"views": "[{size = 28, count = 2, to_teacher = false}]"})
