import numpy as np
import pytest
import torch

from carp_eval.pretrain.sinkhorn import sinkhorn
from tests.features.processes import Started


def by_loops(scores, epsilon, iterations):
    """The pseudo-code of A.1, in float64."""
    shares = np.exp(scores.double().numpy() / epsilon).T
    shares /= shares.sum()
    rows, columns = shares.shape
    for _ in range(iterations):
        for k in range(rows):
            shares[k] *= (1 / rows) / shares[k].sum()
        for b in range(columns):
            shares[:, b] *= (1 / columns) / shares[:, b].sum()
    return (shares / shares.sum(axis=0)).T


def scores_of(seed=0, images=9, prototypes=4):
    return torch.rand(images, prototypes, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_shares_are_those_of_the_pseudo_code(iterations, epsilon):
    scores = scores_of()
    found = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(found.numpy(), by_loops(scores, epsilon, iterations), rtol=5e-4, atol=1e-6)


def test_a_prototype_that_no_image_comes_near_is_given_its_part():
    scores = scores_of(images=12)
    scores[:, 2] = -1 - torch.arange(12) / 100
    found = sinkhorn(scores, epsilon=0.005, iterations=200)
    assert torch.isfinite(found).all()
    assert torch.allclose(found.sum(dim=0), torch.full((4,), 3.0), atol=0.05)


def test_prototypes_come_to_be_given_as_much():
    found = sinkhorn(scores_of(images=40), epsilon=0.5, iterations=50)
    assert torch.allclose(found.sum(dim=1), torch.ones(40), atol=1e-5)
    assert torch.allclose(found.sum(dim=0), torch.full((4,), 10.0), atol=1e-3)


def test_large_scores_do_not_overflow():
    scores = scores_of() + 100
    assert torch.allclose(sinkhorn(scores), sinkhorn(scores - 100), atol=1e-4)


def test_hard_gives_each_image_wholly_to_its_largest_share():
    soft, hard = sinkhorn(scores_of()), sinkhorn(scores_of(), hard=True)
    assert torch.equal(hard.argmax(dim=1), soft.argmax(dim=1))
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.sum(dim=1), torch.ones(9))


def of_two(half, store, rank):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = sinkhorn(half)
    torch.distributed.destroy_process_group()
    # Not a tensor: its memory would have to outlive this process.
    return found.numpy()


def test_two_processes_are_one(tmp_path):
    scores = scores_of(images=10)
    started = [
        Started(of_two, half, str(tmp_path / "store"), rank) for rank, half in enumerate(scores.chunk(2))
    ]
    found = torch.from_numpy(np.concatenate([process.answer() for process in started]))
    assert torch.allclose(found, sinkhorn(scores), atol=1e-5)
    assert not torch.allclose(found, torch.cat([sinkhorn(half) for half in scores.chunk(2)]), atol=1e-3)


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"iterations": 0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="epsilon is positive"):
        sinkhorn(scores_of(), **wrong)
