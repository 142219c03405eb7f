"""UMAP, where it is installed: near what is near, the same again, and nothing said on the way."""

import sys
import warnings

import pytest
import torch

from carp_eval.report import plane, unfolding

GROUPS, EACH, DIM = 5, 40, 32


def rows():
    """Five narrow groups, their middles at right angles."""
    random = torch.Generator().manual_seed(0)
    middles = torch.eye(DIM)[:GROUPS].repeat_interleave(EACH, dim=0)
    noisy = middles + 0.1 * torch.randn(GROUPS * EACH, DIM, generator=random)
    return noisy / noisy.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def drawn():
    pytest.importorskip("umap", reason="umap-learn is not installed here", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return plane.draw(rows(), umap=True, seed=3)


def test_what_is_near_is_near_on_the_plane(drawn):
    assert drawn.how == "by UMAP"
    distances = torch.cdist(drawn.cells.double(), drawn.cells.double())
    distances.fill_diagonal_(torch.inf)
    labels = torch.arange(GROUPS).repeat_interleave(EACH)
    nearest = distances.topk(10, largest=False).indices
    assert (labels[nearest] == labels[:, None]).double().mean() > 0.98


def test_the_same_seed_gives_the_same_plane(drawn):
    assert torch.equal(plane.draw(rows(), umap=True, seed=3).cells, drawn.cells)
    assert not torch.equal(plane.draw(rows(), umap=True, seed=4).cells, drawn.cells)


@pytest.mark.usefixtures("drawn")
def test_rows_that_are_all_alike_have_a_plane_too():
    alike = torch.eye(DIM)[:1].repeat(60, 1)
    told = plane.draw(alike, umap=True)
    assert "principal components" in told.how
    assert told.cells.shape == (60, 2)


def test_where_umap_cannot_be_loaded_principal_components_do_and_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    told = plane.draw(rows(), umap=True)
    assert "principal components" in told.how
    assert "UMAP is installed and cannot be loaded" in told.how
    assert torch.equal(told.cells, plane.draw(rows(), umap=False).cells)


def test_few_rows_are_drawn_without_it(monkeypatch):
    monkeypatch.setattr(unfolding, "unfold", None)
    assert "principal components" in plane.draw(rows()[:15], umap=True).how


def test_what_comes_after_has_as_many_threads_as_before():
    rows = torch.nn.functional.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        unfolding.unfold(rows, rows[:, :2].contiguous(), seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
