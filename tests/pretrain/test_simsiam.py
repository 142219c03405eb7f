import pytest
import torch

from carp_eval.cards import loading
from carp_eval.errors import CardError
from tests.pretrain.one_step import FIRST, batch_of, method_of
from tests.pretrain.test_cosine_loss import cosines


def test_the_loss_is_that_of_loops_over_both_directions():
    method = method_of("simsiam")
    batch = batch_of(6, 28, 28)
    with torch.no_grad():
        projected = [method.student.head(method.student.trunk(view)) for view in batch.views]
        predicted = torch.stack([method.student.predictor(rows) for rows in projected])
    found = cosines(predicted, torch.stack(projected[::-1]))
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(-sum(found) / len(found), rel=1e-4)


@pytest.mark.parametrize(("constant", "rate"), [("true", 2e-3), ("false", 1e-4)])
def test_the_predictors_rate_stays_where_the_recipe_says_so(constant, rate):
    method = method_of("simsiam", predictor__constant_lr=constant, optimiser__lr="2e-3")
    optimiser = method.optimiser()
    method.set_rates(optimiser, 1e-4, FIRST)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    named = dict(method.student.named_parameters())
    assert len(named) == sum(len(group["params"]) for group in optimiser.param_groups)
    assert rates.keys() == {id(parameter) for parameter in named.values()}
    for name, parameter in named.items():
        assert rates[id(parameter)] == (rate if name.startswith("predictor.") else 1e-4), name


def test_the_head_ends_in_a_norm():
    method = method_of("simsiam")
    with torch.no_grad():
        projected = method.student(batch_of(64, 28).views[0])[0]
    assert torch.allclose(projected.mean(dim=0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(projected.std(dim=0, correction=0), torch.ones(8), atol=0.05)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CardError, match=r"predictor\.output_dim is 64 and head\.output_dim 512"):
        loading.recipe("digits-simsiam", {"predictor.output_dim": "64"})
