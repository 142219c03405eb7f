import pytest
import torch
from torch.nn import functional

from carp_eval.cards import loading
from carp_eval.errors import CardError
from carp_eval.pretrain.method import Step
from tests.pretrain.one_step import batch_of, method_of
from tests.pretrain.test_carl_loss import by_loops


# 4 down to 1.5 over two epochs.
@pytest.mark.parametrize(("epoch", "weight"), [(0, 4.0), (1, 2.75), (2, 1.5), (9, 1.5)])
@pytest.mark.parametrize("unit_norm", ["false", "true"])
def test_the_loss_is_that_of_loops_with_the_weight_of_its_epoch(epoch, weight, unit_norm):
    method = method_of("carl", prototypes__unit_norm=unit_norm)
    batch = batch_of(6, 28, 28)
    with torch.no_grad():
        prototypes = method.student.prototypes.weight
        prototypes.mul_(20)
        embedded = method.student(torch.cat(batch.views)).view(2, 6, -1)
    rows = functional.normalize(prototypes) if unit_norm == "true" else prototypes
    expected = by_loops(torch.einsum("vid,kd->vik", embedded, rows), weight)
    losses = method.loss(batch, student=method.student, step=Step(7, epoch, 0.5))
    shown = losses.shown
    assert shown["kl_weight"] == pytest.approx(weight)
    found = [losses.total.item(), shown["consistency"].item(), shown["kl"].item()]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_all_that_is_trained_gets_a_gradient():
    method = method_of("carl")
    losses = method.loss(batch_of(6, 28, 28), student=method.student, step=Step(0, 0, 0.0))
    losses.total.backward()
    assert all(
        parameter.grad.norm() > 0 for name, parameter in method.student.named_parameters() if "head.0" in name
    )
    assert method.student.prototypes.weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("name", "data", "epochs", "count", "size", "weights"),
    [
        ("carl-resnet18-100ep-cifar10", "cifar10", 100, 100, 32, (4.0, 1.5)),
        ("carl-resnet18-200ep-cifar10", "cifar10", 200, 100, 32, (4.0, 1.5)),
        ("carl-resnet18-100ep-cifar100", "cifar100", 100, 300, 32, (4.0, 1.5)),
        ("carl-resnet18-150ep-cifar100", "cifar100", 150, 1000, 32, (4.0, 1.5)),
        ("carl-resnet18-200ep-cifar100", "cifar100", 200, 300, 32, (4.0, 1.5)),
        ("carl-resnet18-100ep-stl10", "stl10", 100, 300, 96, (2.0, 1.0)),
        ("carl-resnet18-200ep-stl10", "stl10", 200, 300, 96, (2.0, 1.0)),
        ("carl-resnet18-100ep-imagenet64", "imagenet64", 100, 3000, 64, (4.0, 1.5)),
        ("carl-resnet18-200ep-imagenet64", "imagenet64", 200, 3000, 64, (4.0, 1.5)),
    ],
)
def test_the_recipes_are_the_papers(name, data, epochs, count, size, weights):
    recipe = loading.recipe(name)
    assert (recipe.data.name, recipe.schedule.epochs, recipe.prototypes.count) == (data, epochs, count)
    assert {view.size for view in recipe.views} == {size}
    assert (recipe.loss.kl_weight, recipe.loss.final_kl_weight, recipe.loss.decay_epochs) == (*weights, 100)
    assert (recipe.trunk.architecture, recipe.trunk.stem) == ("resnet18", "imagenet")
    assert (recipe.head.num_layers, recipe.head.hidden_dim, recipe.head.output_dim) == (2, 512, 128)
    optimiser = recipe.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.final_lr) == ("lars", 0.6, 0.0006)
    assert (optimiser.schedule, optimiser.weight_decay) == ("cosine", 5e-4)
    assert recipe.schedule.batch_size == 256


def test_several_sets_of_prototypes_are_refused():
    with pytest.raises(CardError, match=r"prototypes\.sets"):
        loading.recipe("digits-carl", {"prototypes.sets": "2"})
