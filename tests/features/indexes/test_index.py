import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from carp_eval import files
from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.bank_view import BankView
from carp_eval.features.indexes import building, choice, reranking, tuning
from carp_eval.features.indexes import index as indexing
from carp_eval.features.indexes import record as records
from carp_eval.features.indexes.index import Index
from carp_eval.features.indexes.mapped import MappedRows
from tests.features.indexes.scene import brute_force, clustered, make_bank

KINDS = ("flat", "hnsw", "ivf", "ivf-pq")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    bank = make_bank(tmp_path_factory.mktemp("bank") / "bank", *clustered(3000, 16, seed=1))
    for kind in KINDS:
        indexing.build(bank, kind=kind, recall=0.95, k=10)
    return bank


@pytest.fixture
def bank(made, tmp_path):
    return Bank.open(shutil.copytree(made.path, tmp_path / "copy"))


def share_found(rows, exact):
    return np.mean([len(set(some) & set(all_)) / len(all_) for some, all_ in zip(rows, exact, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_new_queries_find_about_what_was_promised_with_true_similarities_in_order(made, kind):
    queries, _ = clustered(200, 16, seed=2)
    near = Index.open(made, kind=kind).search(5 * queries, k=10)
    cosines, exact = brute_force(made, queries, 10)
    rows, found = near.indices.numpy(), near.similarities.numpy()
    assert share_found(rows, exact) > 0.93
    every, order = brute_force(made, queries, 3000)
    true = np.empty_like(every)
    np.put_along_axis(true, order, every, axis=1)
    np.testing.assert_allclose(found, np.take_along_axis(true, rows, axis=1), rtol=0, atol=1e-6)
    assert (found[:, :-1] >= found[:, 1:]).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())
    if kind == "flat":
        np.testing.assert_allclose(found, cosines, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-pq"])
def test_the_recall_that_is_stated_is_that_of_a_brute_force(made, kind):
    index = Index.open(made, kind=kind)
    recall = index.record.recall
    _, own = tuning.draw(3000, index.record.design)
    queries = torch.cat(made.shards())[own].float()
    rows = index.search(queries, k=10, own=own).indices.numpy()
    assert not (rows == own[:, None].numpy()).any()
    share = share_found(rows, brute_force(made, queries, 10, own=own.numpy())[1])
    assert recall.queries == len(own) == 1000
    assert recall.value == pytest.approx(share, abs=2e-4)
    assert recall.low < recall.value < recall.high
    assert recall.value >= recall.target == 0.95


def test_a_banks_own_rows_as_queries_do_not_count_themselves_as_found(made, tmp_path):
    again = indexing.build(
        Bank.open(shutil.copytree(made.path, tmp_path / "copy")), kind="ivf", recall=0.95, k=10, queries=made
    )
    assert again.record.recall == Index.open(made, kind="ivf").record.recall


def test_equal_rows_come_in_the_order_of_their_numbers(tmp_path):
    features, labels = clustered(1200, 8, seed=3)
    features[[70, 400, 900, 1100]] = features[5].clone()
    bank = make_bank(tmp_path / "bank", features, labels, shard_rows=300)
    index = indexing.build(bank, kind="ivf", recall=0.9, k=5, nlist=8)
    assert index.search(features[5:6], k=5).indices.tolist() == [[5, 70, 400, 900, 1100]]


def test_where_the_lists_looked_into_hold_too_few_rows_every_row_is_compared(made):
    queries, _ = clustered(20, 16, seed=4)
    index = Index.open(made, kind="ivf")
    narrow = index.record.model_copy(update={"probe": 1, "candidates": 1.0})
    found = Index(made, index.path, narrow, index._engine).search(queries, k=400)
    # Of rows that float32 holds to be the same, either may come first: similarities tell that all were compared.
    np.testing.assert_allclose(found.similarities, brute_force(made, queries, 400)[0], rtol=0, atol=1e-6)
    own, rows = torch.arange(20), torch.cat(made.shards())[:20].float()
    found = Index(made, index.path, narrow, index._engine).search(rows, k=400, own=own)
    cosines = brute_force(made, rows, 400, own=np.arange(20))[0]
    np.testing.assert_allclose(found.similarities, cosines, rtol=0, atol=1e-6)


def test_a_recall_out_of_reach_is_an_error_and_a_lower_one_goes_on(tmp_path, monkeypatch):
    bank = make_bank(tmp_path / "bank", *clustered(1500, 16, seed=5))
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "DEPTHS", (1,))
        with pytest.raises(BankError, match=r"recall of 0\.999 .* reaches 0\.\d+ at most .* --recall"):
            indexing.build(bank, kind="ivf-pq", recall=0.999, k=10)
        with pytest.raises(BankError, match="has no index"):
            Index.open(bank)
        trained = files.sha256(bank.path / ".index-ivf-pq.making" / building.TRAINED)
        told = []
        monkeypatch.setattr(building, "_trained", lambda *_: pytest.fail("trained again"))
        index = indexing.build(bank, kind="ivf-pq", recall=0.3, k=10, say=told.append)
    assert len(told) == 1
    assert "going on" in told[0]
    assert index.record.built.files[records.ENGINE].sha256 == trained
    assert sorted(path.name for path in index.path.iterdir()) == ["index.faiss", "index.json", "lists.bin"]


KILLED = """
import os, signal, sys
from carp_eval.features.indexes import index
from carp_eval.features.bank import Bank
from carp_eval.features.indexes import building

building.BLOCK_ROWS, building.PART_BYTES = 256, 1
folder, work, at = sys.argv[1:]


def bar(name):
    def tell(done, _):
        if name == work and done >= int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    return tell


index.build(Bank.open(folder), kind="ivf", recall=0.9, k=5, bar=bar)
"""


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "BLOCK_ROWS", 256)
    monkeypatch.setattr(building, "PART_BYTES", 1)
    features, labels = clustered(1500, 16, seed=6)
    undisturbed = indexing.build(make_bank(tmp_path / "a", features, labels), kind="ivf", recall=0.9, k=5)
    bank = make_bank(tmp_path / "b", features, labels)
    for work, at in (("rows added", "700"), ("lists merged", "3")):
        # A process of its own, not a fork: a copy of this one would wait for threads that it has not.
        killed = subprocess.run([sys.executable, "-c", KILLED, bank.path, work, at], timeout=120)
        assert killed.returncode == -signal.SIGKILL
        assert not list(bank.path.glob("index-*/index.json"))
    assert len(list((bank.path / ".index-ivf.making").glob("part-*.faiss"))) == 6
    index = indexing.build(bank, kind="ivf", recall=0.9, k=5)
    assert index.record.built == undisturbed.record.built
    assert not (bank.path / ".index-ivf.making").exists()


def test_a_build_that_was_stopped_before_it_got_its_name_need_not_be_made_again(tmp_path, monkeypatch):
    bank = make_bank(tmp_path / "bank", *clustered(1500, 16, seed=5))
    with monkeypatch.context() as patched:
        patched.setattr(indexing, "_take_place", lambda *_: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            indexing.build(bank, kind="ivf", recall=0.9, k=5)
    assert not list((bank.path / ".index-ivf.making").glob("part-*"))
    monkeypatch.setattr(building, "_trained", lambda *_: pytest.fail("trained again"))
    index = indexing.build(bank, kind="ivf", recall=0.9, k=5)
    assert sorted(path.name for path in index.path.iterdir()) == ["index.faiss", "index.json", "lists.bin"]


def test_what_was_begun_otherwise_begins_anew(tmp_path):
    bank = make_bank(tmp_path / "bank", *clustered(1500, 16, seed=5))
    design = choice.design("ivf", 1500, 16, nlist=4, memory=2**30, seed=0)
    making = bank.path / ".index-ivf.making"
    assert building.begin(making, bank, design, memory=2**30)[1] is False
    assert building.begin(making, bank, design, memory=2**30)[1] is True
    other = choice.design("ivf", 1500, 16, nlist=5, memory=2**30, seed=0)
    assert building.begin(making, bank, other, memory=2**30)[1] is False


def test_the_index_of_another_bank_is_not_opened(made, tmp_path):
    other = make_bank(tmp_path / "other", *clustered(3000, 16, seed=9))
    shutil.copytree(Index.open(made, kind="ivf").path, other.path / "index-ivf")
    with pytest.raises(BankError, match=r"of other rows.*carp bank index"):
        Index.open(other)


@pytest.mark.parametrize("name", ["index.faiss", "lists.bin"])
def test_damaged_indexes_are_not_opened_or_told_of_by_verify(bank, name):
    index = Index.open(bank, kind="ivf")
    assert index.verify() == []
    path = index.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [name in problem for problem in index.verify()] == [True]
    if name == "index.faiss":
        with pytest.raises(BankError, match=r"index\.faiss has other bytes"):
            Index.open(bank, kind="ivf")
    path.write_bytes(content[:-8])
    with pytest.raises(BankError, match=f"{name} has .* bytes instead of"):
        Index.open(bank, kind="ivf")
    path.unlink()
    with pytest.raises(BankError, match=f"{name} is missing"):
        Index.open(bank, kind="ivf")
    (index.path / "index.json").write_text("{}")
    with pytest.raises(BankError, match="damaged or of another release"):
        Index.open(bank, kind="ivf")


def test_lists_that_disagree_with_the_record_are_not_mapped(bank):
    index = Index.open(bank, kind="ivf")
    sizes = (*index.record.built.list_sizes[:-1], index.record.built.list_sizes[-1] + 1)
    built = index.record.built.model_copy(update={"list_sizes": sizes})
    (index.path / "index.json").write_text(index.record.model_copy(update={"built": built}).model_dump_json())
    with pytest.raises(BankError, match="another size than its lists"):
        Index.open(bank, kind="ivf")


def test_rows_that_the_bank_does_not_have_are_not_made_up(bank):
    index = Index.open(bank, kind="ivf")
    lists = index.path / records.LISTS
    wrong = np.frombuffer(lists.read_bytes(), np.uint8).copy()
    # The last eight bytes are the number of the last list's last row.
    wrong[-8:] = np.frombuffer(np.int64(3000).tobytes(), np.uint8)
    lists.write_bytes(wrong.tobytes())
    everywhere = index.record.model_copy(update={"probe": index.record.design.lists, "candidates": 300.0})
    with pytest.raises(BankError, match=r"row 3000 of a bank of 3000.*carp bank index"):
        Index(bank, index.path, everywhere, Index.open(bank, kind="ivf")._engine).search(
            torch.ones(1, 16), k=10
        )


def test_the_index_of_a_bank_is_not_that_of_some_of_its_rows(made):
    with pytest.raises(BankError, match="of other rows"):
        Index.open(BankView(made, rows=torch.arange(5, 2000)))
    assert len(Index.open(BankView(made, labels=torch.zeros(3000, dtype=torch.int64)))) == 3000


def test_candidates_of_one_query_are_read_in_steps(made, monkeypatch):
    read = []

    def take(self, rows):
        read.append(len(rows))
        return taken(self, rows)

    taken = MappedRows.take
    monkeypatch.setattr(MappedRows, "take", take)
    monkeypatch.setattr(reranking, "STEP_ROWS", 64)
    queries, _ = clustered(3, 16, seed=2)
    near = Index.open(made, kind="flat").search(queries, k=200)
    assert max(read) == 64
    np.testing.assert_allclose(near.similarities, brute_force(made, queries, 200)[0], rtol=0, atol=1e-6)


def test_a_flat_index_reads_its_bank_once_where_that_may_stay_in_memory(made, monkeypatch):
    opened = Bank.open(made.path)
    index, queries = Index.open(opened, kind="flat"), clustered(3, 16, seed=2)[0]
    first = index.search(queries, k=10)
    with monkeypatch.context() as patched:
        patched.setattr(Bank, "shards", lambda _: pytest.fail("read again"))
        again = index.search(queries, k=10)
    assert torch.equal(first.indices, again.indices)
    with pytest.raises(UsageError, match=r"0\.0 MB of memory are too little"):
        index.search(queries, k=10, memory=1000)


def test_an_index_of_another_schema_is_not_read(bank):
    path = Index.open(bank, kind="ivf").path / records.RECORD
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(BankError, match="another release"):
        Index.open(bank)


def test_fewer_rows_than_components_are_indexed_by_fewer_components(tmp_path):
    bank = make_bank(tmp_path / "bank", *clustered(60, 520, seed=1))
    index = indexing.build(bank, kind="hnsw", recall=0.5, k=5)
    assert index.record.design.factory == "PCAR60,HNSW32_SQ8"
    queries, _ = clustered(5, 520, seed=2)
    found = index.search(queries, k=5)
    assert share_found(found.indices.numpy(), brute_force(bank, queries, 5)[1]) > 0.5


def test_nothing_is_printed_where_json_may_be(made, tmp_path, capfd):
    bank = make_bank(tmp_path / "bank", *clustered(1500, 16, seed=5))
    indexing.build(bank, kind="ivf", recall=0.9, k=5).search(torch.ones(1, 16), k=3)
    assert capfd.readouterr().out == ""


def test_rows_are_read_from_disk_by_number_in_any_order(made):
    rows = MappedRows(made)
    stored = torch.cat(made.shards()).double().numpy()
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    numbers = torch.tensor([2999, 0, 700, 699, 700, 1401])
    np.testing.assert_allclose(rows.take(numbers).numpy(), unit[numbers], atol=1e-6)
    blocks = list(rows.blocks(256, start=100, stop=2950))
    assert [first for first, _ in blocks][:4] == [100, 356, 612, 700]
    np.testing.assert_allclose(torch.cat([block for _, block in blocks]).numpy(), unit[100:2950], atol=1e-6)
    assert all(
        first == 100 + sum(len(b) for _, b in blocks[:number]) for number, (first, _) in enumerate(blocks)
    )


@pytest.mark.parametrize(
    ("rows", "dim", "memory", "kind"),
    [
        (20_000, 2048, 2**32, "flat"),
        (20_001, 2048, 2**32, "hnsw"),
        (200_000, 2048, 2**20, "ivf-pq"),
        (200_001, 2048, 2**32, "ivf"),
        (1_281_167, 2048, 6 * 2**30, "ivf"),
        (1_281_167, 2048, 2**31, "ivf-pq"),
        (1_000_000_000, 2048, 2**36, "ivf-pq"),
    ],
)
def test_the_kind_is_by_size(rows, dim, memory, kind):
    assert choice.kind_for(rows, dim, memory=memory) == kind


def test_lists_are_no_more_than_1024_unless_asked_for():
    design = choice.design("ivf", 1_281_167, 2048, nlist=None, memory=6 * 2**30, seed=0)
    assert (design.lists, design.factory, design.training_rows) == (1024, "IVF1024,SQ8", 65_536)
    assert choice.design("ivf", 1_281_167, 2048, nlist=4096, memory=6 * 2**30, seed=0).lists == 4096
    assert choice.design("ivf", 2500, 2048, nlist=None, memory=2**32, seed=0).lists == 2500 // 39
    compact = choice.design("ivf-pq", 1_281_167, 2048, nlist=None, memory=6 * 2**30, seed=0)
    assert (compact.factory, compact.code_bytes) == ("PCAR512,IVF1024,PQ128x8np", 136)


def test_what_cannot_be_indexed_is_refused(made):
    for options, said in [
        ({"recall": 1.0}, "at most 0.9999"),
        ({"recall": 0.0}, "above 0"),
        ({"k": 3000}, "from 1 to 2999"),
        ({"kind": "ivf", "nlist": 1000}, "from 1 to 76"),
        ({"kind": "hnsw", "nlist": 10}, "ivf and ivf-pq"),
        ({"kind": "hnsw", "memory": 2**16}, "or more, or choose --kind ivf"),
        ({"kind": "ivf-pq", "memory": 2**12}, "--memory"),
        ({"kind": "ivf", "memory": 127}, "--memory"),
        ({"kind": "flat", "memory": 2**12}, "--memory"),
    ]:
        with pytest.raises(UsageError, match=said):
            indexing.build(made, **options)
    index = Index.open(made, kind="ivf")
    with pytest.raises(UsageError, match="from 1 to 3000"):
        index.search(torch.ones(1, 16), k=3001)
    with pytest.raises(UsageError, match="16 wide"):
        index.search(torch.ones(1, 17), k=1)
    with pytest.raises(BankError, match="NaN"):
        index.search(torch.full((1, 16), torch.nan), k=1)


def test_the_newest_index_is_opened(made):
    assert Index.open(made).record.design.kind == "ivf-pq"
    assert Path(Index.open(made).path).name == "index-ivf-pq"


def test_what_is_asked_for_was_not_trained_on_as_far_as_there_are_rows():
    design = choice.Design(kind="ivf", factory="", lists=8, training_rows=2000, code_bytes=8, seed=3)
    trained, asked = tuning.draw(3000, design)
    assert (len(trained), len(asked)) == (2000, 1000)
    assert sorted(torch.cat([trained, asked]).tolist()) == list(range(3000))
    assert (trained.diff() > 0).all()
