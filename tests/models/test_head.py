import torch
from torch import nn

from carp_eval.cards.recipe import HeadCard
from carp_eval.models import head


def test_the_head_has_the_layers_the_paper_gives():
    built = head.build(HeadCard(num_layers=3, hidden_dim=16, output_dim=4), input_dim=8)
    assert [type(layer) for layer in built] == [
        nn.Linear,
        nn.BatchNorm1d,
        nn.GELU,
        nn.Linear,
        nn.BatchNorm1d,
        nn.GELU,
        nn.Linear,
    ]
    assert [layer.weight.shape for layer in built if isinstance(layer, nn.Linear)] == [
        (16, 8),
        (16, 16),
        (4, 16),
    ]


def test_weights_start_small_and_cut_and_biases_at_zero():
    torch.manual_seed(0)
    built = head.build(HeadCard(num_layers=1, output_dim=512), input_dim=512)
    weight = built[0].weight
    assert weight.abs().max() <= 0.04
    assert 0.016 < weight.std() < 0.02
    assert not built[0].bias.any()


def test_prototypes_give_the_logits_of_every_prototype():
    prototypes = head.Prototypes(5, dim=3)
    embeddings = torch.randn(2, 3)
    expected = [
        [sum(float(a) * float(b) for a, b in zip(e, c)) for c in prototypes.weight.detach()]
        for e in embeddings
    ]
    torch.testing.assert_close(prototypes(embeddings), torch.tensor(expected))
