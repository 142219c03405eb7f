import numpy as np
import pytest
import torch

from carp_eval.errors import BankError
from carp_eval.features.bank_view import BankView
from carp_eval.features.rows import plain_rows
from tests.features.scene import Net, Noise, take


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    # Seven shards of eight rows, the last of two.
    return take(tmp_path_factory.mktemp("banks"))


@pytest.mark.parametrize("rows", [[0, 7, 8, 9, 40, 49], [3], [8, 9, 10, 11, 12, 13, 14, 15], list(range(50))])
def test_a_view_of_some_rows_reads_as_these_rows(bank, rows):
    view = BankView(bank, rows=torch.tensor(rows))
    assert len(view) == len(rows)
    whole = torch.cat(bank.shards())
    assert torch.equal(plain_rows(view.shards()), whole[rows].float())
    assert torch.equal(view.features(), whole[rows])
    assert view.labels.tolist() == [bank.labels[row].item() for row in rows]
    assert view.index.tolist() == [bank.index[row].item() for row in rows]
    assert view.keys == [bank.keys[row] for row in rows]
    assert (view.class_names, view.fingerprint, view.dim) == (bank.class_names, bank.fingerprint, bank.dim)


def test_other_labels_stand_in_for_the_banks(bank):
    labels = torch.arange(50)
    view = BankView(
        bank, labels=labels, class_names=tuple(map(str, range(50))), candidates=torch.tensor([1, 4])
    )
    assert view.labels is labels
    assert len(view.class_names) == 50
    assert [len(shard) for shard in view.shards()] == [len(shard) for shard in bank.shards()]
    assert view.keys == bank.keys


def test_a_view_of_a_view_keeps_what_the_first_says(bank):
    right = np.eye(50, dtype=bool)
    first = BankView(
        bank, labels=torch.arange(50), class_names=("x",) * 50, candidates=torch.tensor([2, 3]), right=right
    )
    second = BankView(first, rows=torch.tensor([5, 11, 30]))
    assert second.labels.tolist() == [5, 11, 30]
    assert second.candidates.tolist() == [2, 3]
    assert second.right.argmax(axis=1).tolist() == [5, 11, 30]
    assert torch.equal(second.features(), torch.cat(bank.shards())[[5, 11, 30]])
    third = BankView(second, rows=torch.tensor([2]))
    assert (third.labels.tolist(), third.keys) == ([30], [bank.keys[30]])


def test_a_view_is_of_its_banks_model(bank, tmp_path):
    network = Net().eval()
    with torch.no_grad():
        network.layers[0].bias += 1
    other = take(tmp_path, images=Noise(9), network=network)
    BankView(bank, rows=torch.tensor([1])).check_comparable(BankView(bank, rows=torch.tensor([2])))
    with pytest.raises(BankError, match="weights_sha256"):
        BankView(bank, rows=torch.tensor([1])).check_comparable(other)
