import pytest
import torch

from carp_eval.pretrain import spread


def test_spread_is_1_where_rows_point_everywhere_and_0_where_all_point_one_way():
    torch.manual_seed(0)
    assert spread.spread(7 * torch.randn(4000, 16)).item() == pytest.approx(1.0, abs=0.02)
    assert spread.spread(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).item() == pytest.approx(0.0, abs=1e-6)
    # Up and down in one dimension of two: its deviation is 1, the other's 0; their mean times the root of 2.
    assert spread.spread(torch.tensor([[0.0, 1.0], [0.0, -5.0]])).item() == pytest.approx(0.5 * 2**0.5)


def test_collapse_is_said_in_words_with_what_to_change():
    said = spread.warnings({"spread": 0.05, "effective_rank": 1.2}, advice="Lower optimiser.lr")
    assert set(said) == {"spread", "effective_rank"}
    assert "spread 0.05, where 1 is evenly everywhere" in said["spread"]
    assert all("Lower optimiser.lr" in words for words in said.values())
    assert spread.warnings({"spread": 0.8, "effective_rank": 20.0}, advice="") == {}
    assert spread.warnings({}, advice="") == {}
