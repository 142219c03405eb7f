"""The projection head and the prototypes above a trunk."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.cards.recipe import HeadCard


def build(card: HeadCard, *, input_dim: int) -> nn.Sequential:
    """Build a projection head, as its card says; left to the defaults, CARP's (B.1, its authors' weights)."""
    widths = [input_dim, *[card.hidden_dim] * (card.num_layers - 1), card.output_dim]
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        if layers:
            layers += [nn.BatchNorm1d(inner)] if card.batch_norm else []
            layers.append(nn.GELU() if card.activation == "gelu" else nn.ReLU())
        linear = nn.Linear(inner, outer)
        if card.initialisation == "truncated":
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(linear.bias)
        layers.append(linear)
    if card.output_norm:
        layers.append(nn.BatchNorm1d(card.output_dim, affine=False))
    return nn.Sequential(*layers)


class Prototypes(nn.Module):
    """The prototype vectors C, one a row; the loss scales them to unit length where the recipe asks."""

    def __init__(self, count: int, *, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, embeddings: Float[Tensor, "image dim"]) -> Float[Tensor, "image prototype"]:
        """Return the logits of every prototype, for use outside training."""
        return embeddings @ self.weight.T
