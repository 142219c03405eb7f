import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from carp_eval.pretrain.even_labels import even_labels
from tests.features.processes import Started
from tests.pretrain.test_sinkhorn import by_loops


def unit_rows(count, dim=5, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("iterations", [1, 3, 30])
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize("chunk", [7, 8192])
def test_labels_are_the_largest_shares_of_the_pseudo_code(iterations, epsilon, chunk):
    features, prototypes = unit_rows(40), unit_rows(6, seed=1)
    found = even_labels(features, prototypes, epsilon=epsilon, iterations=iterations, chunk=chunk)
    shares = by_loops(features @ prototypes.T, epsilon, iterations)
    assert found.tolist() == shares.argmax(axis=1).tolist()


def test_images_that_gather_are_spread_over_all_prototypes():
    centre = unit_rows(1)
    features = F.normalize(centre + 0.1 * unit_rows(200, seed=1))
    prototypes = torch.cat([centre, unit_rows(3, seed=2)])
    assert (features @ prototypes.T).argmax(dim=1).unique().tolist() == [0]
    counts = even_labels(features, prototypes, epsilon=0.01, iterations=200).bincount(minlength=4)
    assert counts.tolist() == pytest.approx([50] * 4, abs=5)


def _of_half(features, prototypes, store, rank):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        # Not a tensor: its memory would have to outlive this process.
        return even_labels(features, prototypes, epsilon=0.05, iterations=3).numpy()
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    features, prototypes = unit_rows(60), unit_rows(6, seed=1)
    started = [
        Started(_of_half, half, prototypes, str(tmp_path / "store"), rank)
        for rank, half in enumerate(features.chunk(2))
    ]
    found = np.concatenate([process.answer() for process in started])
    options = {"epsilon": 0.05, "iterations": 3}
    assert found.tolist() == even_labels(features, prototypes, **options).tolist()
    apart = [even_labels(half, prototypes, **options) for half in features.chunk(2)]
    assert found.tolist() != torch.cat(apart).tolist()
