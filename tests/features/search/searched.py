"""Banks that are hard to search, their neighbours by exact sums, and what keeps a search's state."""

import math

import torch

CPU = torch.device("cpu")


def random_rows(rows, dim, seed):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def brute_force(bank, queries, k, *, own=None):
    """Neighbours by loops in float64, each sum exact to the last bit (fsum)."""
    found = []
    for number, query in enumerate(queries.double().tolist()):
        scored = [
            (-math.fsum(a * b for a, b in zip(query, row)), place)
            for place, row in enumerate(bank.double().tolist())
            if own is None or place != own[number]
        ]
        found.append(sorted(scored)[:k])
    return (
        torch.tensor([[-similarity for similarity, _ in row] for row in found], dtype=torch.float64),
        torch.tensor([[place for _, place in row] for row in found]),
    )


def by_fsum(bank, queries, k, *, own=None):
    """The rows alone."""
    return brute_force(bank, queries, k, own=own)[1]


def hard_bank():
    """Rows with copies of one, zeros, and a collapsed half."""
    features = random_rows(90, 16, seed=0)
    features[20:40] = features[7]
    features[50:53] = 0
    features[60:] = features[60]
    return features[torch.randperm(90, generator=torch.Generator().manual_seed(1))].half()


class Kept:
    """Keeps a state in memory; dies after some saves, as a kill would have it."""

    def __init__(self, *, dies_after=None):
        self.state, self.saves, self.dies_after = None, 0, dies_after

    def load(self):
        return self.state

    def save(self, state):
        self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        self.saves += 1
        if self.saves == self.dies_after:
            raise KeyboardInterrupt
