import pytest
import torch

from tests.pretrain.one_step import FIRST, batch_of, method_of
from tests.pretrain.test_contrastive_loss import by_loops

MULTI_CROP = (
    "[{size = 28, count = 2, grey = 0.0, jitter = [0.4, 0.4, 0.0, 0.0]}, "
    "{size = 16, grey = 0.0, jitter = [0.4, 0.4, 0.0, 0.0]}]"
)


@pytest.mark.parametrize(("views", "sizes"), [(None, (28, 28)), (MULTI_CROP, (28, 28, 16))])
def test_the_loss_is_that_of_loops_with_crops_of_any_size(views, sizes):
    method = method_of("simclr", **({} if views is None else {"views": views}))
    batch = batch_of(6, *sizes)
    with torch.no_grad():
        # Views of one size share BatchNorm's statistics.
        large = method.student(torch.cat(batch.views[:2])).view(2, 6, -1)
        small = [method.student(view)[None] for view in batch.views[2:]]
    losses = method.loss(batch, student=method.student, step=FIRST)
    assert losses.total.item() == pytest.approx(by_loops(torch.cat([large, *small]), 0.2), rel=1e-4)
    assert 0 < losses.shown["spread"].item() < 1.1
