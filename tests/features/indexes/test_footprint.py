"""Memory is told before any work, is enough, and is not exceeded."""

import re
import shutil
import subprocess
import sys

import pytest

from carp_eval.errors import UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.indexes import building, choice, footprint, tuning
from carp_eval.features.indexes import index as indexing
from tests.features.indexes.scene import clustered, make_bank
from tests.private_memory import on_linux

KINDS = ("flat", "hnsw", "ivf", "ivf-pq")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank") / "bank"
    return make_bank(folder, *clustered(9000, 64, seed=1), shard_rows=2000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_that_is_told_is_enough_and_told_before_any_work(bank, tmp_path, monkeypatch, kind):
    with monkeypatch.context() as patched:
        patched.setattr(building, "begin", lambda *_, **__: pytest.fail("work was begun"))
        with pytest.raises(UsageError, match="--memory") as refused:
            indexing.build(bank, kind=kind, recall=0.5, k=10, memory=2**20)
        least = int(re.search(r"--memory (\d+)MB", str(refused.value))[1]) * 10**6
        with pytest.raises(UsageError, match=re.escape(f"--memory {least // 10**6}MB")):
            indexing.build(bank, kind=kind, recall=0.5, k=10, memory=least - 10**6)
    # Opened anew: what is held of it from before is not counted.
    index = indexing.build(Bank.open(bank.path), kind=kind, recall=0.5, k=10, memory=least)
    assert index.record.recall.value >= 0.5


BUILT = """
import sys
from carp_eval.features.bank import Bank
from carp_eval.features.indexes import index
from tests.private_memory import watched

with watched() as most:
    made = index.build(Bank.open(sys.argv[1]), kind="ivf", recall=0.3, k=10, memory=int(sys.argv[2]))
print(most[0], made.record.design.training_rows)
"""


@on_linux
def test_a_build_takes_no_more_than_it_may(tmp_path):
    bank = make_bank(tmp_path / "bank", *clustered(40_000, 192, seed=1, spread=1.5), shard_rows=20_000)
    memory = 90_000_000
    # In a process of its own, which holds no memory that others have let go of.
    told = subprocess.run(
        [sys.executable, "-c", BUILT, bank.path, str(memory)], check=True, stdout=subprocess.PIPE, text=True
    )
    most, trained = map(int, told.stdout.split())
    # As many rows as fit: each of 192 numbers of four bytes, twice while they are read.
    assert 8 * 192 * trained <= most < memory


def test_what_is_told_of_training_grows_with_what_is_fitted():
    # Of 2,048 dimensions PCA takes a covariance, of 512 nothing; ivf-pq fits quantisers too, and keeps a table.
    wide, narrow = (choice.least_to_train("hnsw", 100_000, dim, nlist=None) for dim in (2048, 512))
    assert wide - narrow > 20 * 2048**2
    few, many = (choice.least_to_train("ivf-pq", 100_000, 512, nlist=lists) for lists in (64, 512))
    assert many > few + 4 * (512 - 64) * 128 * 256 * 4


@pytest.mark.parametrize("memory", [2 * 10**8, 10**9, 10**10])
@pytest.mark.parametrize("dim", [128, 512, 2048])
def test_a_design_fits_the_memory_by_hand(memory, dim):
    rows = 1_281_167
    design = choice.design("ivf-pq", rows, dim, nlist=None, memory=memory, seed=0)
    width = min(dim, 512)
    table = design.lists * (width // 4) * 256 * 4
    assert table <= memory / 4
    sample = design.training_rows * max(8 * dim, 4 * dim + 12 * width)
    assert sample + table <= memory
    assert design.training_rows >= 39 * design.lists
    assert footprint.ready(design, rows, dim) == pytest.approx(
        table * 2**design.code_bits / 256 + 4 * width * design.lists + (4 * dim * width if dim > 512 else 0)
    )


def test_a_graph_is_chosen_where_it_fits_while_it_grows():
    rows, dim = 150_000, 2048
    # 512 components of a byte, 64 links of four bytes, 16 for those above; twice while it is moved.
    twice = 2 * rows * (512 + 256 + 16)
    block = 2**24 + 8192 * (8 * dim + 8 * 512)
    assert choice.kind_for(rows, dim, memory=twice + block) == "hnsw"
    assert choice.kind_for(rows, dim, memory=twice + block - 1) != "hnsw"


def test_candidates_of_queries_count(bank, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_CANDIDATES", 8999)
    with pytest.raises(UsageError) as refused:
        indexing.build(bank, kind="ivf", recall=0.5, k=900, memory=2**20)
    # 1,000 queries of 8,999 candidates: numbers, distances and what is right.
    assert int(re.search(r"--memory (\d+)MB", str(refused.value))[1]) * 10**6 > 14 * 1000 * 8999


def test_the_exact_search_beside_a_graph_takes_what_the_graph_leaves(bank, tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    def tune(*_, memory, **__):
        raise StoppedError(memory)

    monkeypatch.setattr(tuning, "tune", tune)
    copy = Bank.open(shutil.copytree(bank.path, tmp_path / "bank"))
    with pytest.raises(StoppedError) as stopped:
        indexing.build(copy, kind="hnsw", recall=0.5, k=10, memory=10**9)
    # A byte for each of 64 numbers, 64 links of four bytes, and 16 for those above.
    assert stopped.value.args[0] == 10**9 - 9000 * (64 + 256 + 16)
