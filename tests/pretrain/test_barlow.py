import pytest
import torch

from tests.pretrain.one_step import FIRST, batch_of, method_of
from tests.pretrain.test_barlow_loss import by_loops


def test_the_loss_is_that_of_loops():
    method = method_of("barlow-twins", loss__redundancy_weight="0.0051")
    batch = batch_of(6, 28, 28)
    with torch.no_grad():
        embedded = torch.stack([method.student(view) for view in batch.views])
    total, invariance, redundancy = by_loops(embedded, 0.0051)
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(total, rel=1e-3)
    assert losses.shown["disagreement"].item() == pytest.approx(invariance / 8, rel=1e-3)
    assert losses.shown["redundancy"].item() == pytest.approx(redundancy / 56, rel=1e-3)


@pytest.mark.parametrize(("bias_lr", "rate"), [({}, 5e-4), ({"optimiser__bias_lr": "4e-3"}, 1e-3)])
def test_biases_and_norms_may_have_a_rate_of_their_own(bias_lr, rate):
    # The recipe's rate is 2e-3, and the schedule has come to a quarter of it.
    method = method_of("barlow-twins", **bias_lr)
    optimiser = method.optimiser()
    method.set_rates(optimiser, 5e-4, FIRST)
    rates = {p.ndim > 1: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates == pytest.approx({True: 5e-4, False: rate})
