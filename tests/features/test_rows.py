import numpy as np
import torch

from carp_eval.features import rows


def test_standardised_by_the_bank_alone():
    bank = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    queries = torch.tensor([[3.0, 8.0]])
    ours, theirs = rows.standardise(bank, queries)
    deviation = np.sqrt(8 / 3)
    np.testing.assert_allclose(ours, [[-2 / deviation, 0], [0, 0], [2 / deviation, 0]], rtol=1e-6)
    assert theirs.tolist() == [[0, 1]]
