import pytest
import torch

from carp_eval.pretrain.barlow_loss import barlow_loss
from tests.pretrain.in_processes import halves, whole


def by_loops(embeddings, weight):
    """Equations 1 and 2 in float64, one number at a time, with BatchNorm's 1e-5 in each deviation."""
    views = embeddings.double().tolist()
    num_images, dim = len(views[0]), len(views[0][0])
    unit = []
    for rows in views:
        columns = []
        for i in range(dim):
            values = [row[i] for row in rows]
            mean = sum(values) / num_images
            variance = sum((value - mean) ** 2 for value in values) / num_images
            columns.append([(value - mean) / (variance + 1e-5) ** 0.5 for value in values])
        unit.append(columns)
    on, off, pairs = 0.0, 0.0, 0
    for a in range(len(views)):
        for b in range(a + 1, len(views)):
            pairs += 1
            for i in range(dim):
                for j in range(dim):
                    entry = sum(x * y for x, y in zip(unit[a][i], unit[b][j])) / num_images
                    if i == j:
                        on += (1 - entry) ** 2
                    else:
                        off += entry**2
    return (on + weight * off) / pairs, on / pairs, off / pairs


@pytest.mark.parametrize("num_views", [2, 3])
def test_the_loss_is_that_of_loops(num_views):
    torch.manual_seed(0)
    embeddings = torch.randn(num_views, 6, 4)
    loss = barlow_loss(embeddings, redundancy_weight=0.3)
    assert [part.item() for part in loss] == pytest.approx(by_loops(embeddings, 0.3), rel=1e-5)


def test_the_gradient_is_that_of_the_loops():
    torch.manual_seed(1)
    embeddings = torch.randn(2, 5, 3)
    given = embeddings.clone().requires_grad_()
    barlow_loss(given, redundancy_weight=0.3).total.backward()
    for place in [(0, 0, 0), (1, 4, 2), (0, 2, 1)]:
        moved = []
        for sign in (1, -1):
            other = embeddings.double()
            other[place] += sign * 1e-5
            moved.append(by_loops(other, 0.3)[0])
        assert given.grad[place].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3, abs=1e-4)


def test_a_large_mean_hides_nothing():
    torch.manual_seed(2)
    embeddings = torch.randn(2, 8, 3).double()
    there = barlow_loss((embeddings + 300).float(), redundancy_weight=0.3).total.item()
    assert there == pytest.approx(by_loops(embeddings, 0.3)[0], rel=1e-3)


def test_it_ends_where_views_agree_and_dimensions_do_not():
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert barlow_loss(torch.stack([corners, 3 * corners]), redundancy_weight=1.0).total.item() < 1e-6
    same = corners[:, :1].expand(4, 2)
    assert barlow_loss(torch.stack([same, same]), redundancy_weight=1.0).redundancy.item() == pytest.approx(
        2.0, rel=1e-3
    )


def test_two_processes_are_one(tmp_path):
    torch.manual_seed(3)
    # The two halves have other means and deviations, so that statistics of a half would show.
    embeddings = torch.randn(2, 32, 8)
    embeddings[:, 16:] = 3 * embeddings[:, 16:] + 2

    def loss_of(given):
        return barlow_loss(given, redundancy_weight=0.3).total

    losses, gradient = halves(loss_of, embeddings, tmp_path)
    expected, wanted = whole(loss_of, embeddings)
    assert losses == pytest.approx([expected] * 2, rel=1e-5)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="two views"):
        barlow_loss(torch.zeros(1, 2, 3), redundancy_weight=1.0)
