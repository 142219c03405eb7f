"""What a build goes on from is as it was written, or is made again."""

import shutil

import pytest

from carp_eval.features.indexes import building
from carp_eval.features.indexes import index as indexing
from tests.features.indexes.scene import clustered, make_bank


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(building, "BLOCK_ROWS", 256)
    monkeypatch.setattr(building, "PART_BYTES", 1)


@pytest.fixture(scope="module")
def rows():
    return clustered(1500, 16, seed=6)


@pytest.fixture(scope="module")
def undisturbed(rows, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(building, "BLOCK_ROWS", 256)
        patched.setattr(building, "PART_BYTES", 1)
        bank = make_bank(tmp_path_factory.mktemp("whole") / "bank", *rows)
        return indexing.build(bank, kind="ivf", recall=0.9, k=5)


def stopped_at(work):
    def bar(name):
        def tell(done, of):
            if name == work and done == of:
                raise StoppedError

        return tell

    return bar


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("work", "name"),
    [
        ("lists merged", "trained.faiss"),
        ("lists merged", "part-00002.faiss"),
        ("settings tried", "index.faiss"),
        ("settings tried", "lists.bin"),
    ],
)
def test_a_file_with_a_flipped_bit_is_made_again_and_that_is_said(rows, undisturbed, tmp_path, work, name):
    bank = make_bank(tmp_path / "bank", *rows)

    def tuned(*_, **__):
        raise StoppedError

    with pytest.MonkeyPatch.context() as patched, pytest.raises(StoppedError):
        if work == "settings tried":
            patched.setattr(indexing.tuning, "tune", tuned)
        indexing.build(bank, kind="ivf", recall=0.9, k=5, bar=stopped_at(work))
    making = bank.path / ".index-ivf.making"
    assert len(list(making.glob("part-*.faiss"))) == 6
    flip(making / name)
    told = []
    index = indexing.build(bank, kind="ivf", recall=0.9, k=5, say=told.append)
    assert [name in word and "made again" in word for word in told] == [False, True]
    assert index.record.built == undisturbed.record.built
    assert index.verify() == []


def test_parts_that_are_whole_are_not_made_again(rows, undisturbed, tmp_path, monkeypatch):
    bank = make_bank(tmp_path / "bank", *rows)
    with pytest.raises(StoppedError):
        indexing.build(bank, kind="ivf", recall=0.9, k=5, bar=stopped_at("rows added"))
    # The last part was added to, not yet written.
    (bank.path / ".index-ivf.making" / "part-00003.faiss").unlink()
    made = []

    def add(index, rows, start, stop, progress):
        made.append(start)
        added(index, rows, start, stop, progress)

    added = building._add
    monkeypatch.setattr(building, "_add", add)
    monkeypatch.setattr(building, "_trained", lambda *_: pytest.fail("trained again"))
    index = indexing.build(bank, kind="ivf", recall=0.9, k=5)
    assert made == [768, 1280]
    assert index.record.built == undisturbed.record.built


def test_parts_of_another_training_are_not_taken_up(rows, tmp_path, monkeypatch):
    bank = make_bank(tmp_path / "bank", *rows)
    with pytest.raises(StoppedError):
        indexing.build(bank, kind="ivf", recall=0.9, k=5, bar=stopped_at("lists merged"))
    flip(bank.path / ".index-ivf.making" / "trained.faiss")
    trained = building._trained

    # As another machine's rounding would have it.
    def otherwise(rows, design):
        return trained(rows, design.model_copy(update={"training_rows": 900}))

    monkeypatch.setattr(building, "_trained", otherwise)
    again = indexing.build(bank, kind="ivf", recall=0.9, k=5)
    other = make_bank(tmp_path / "other", *rows)
    assert again.record.built == indexing.build(other, kind="ivf", recall=0.9, k=5).record.built


def test_what_an_earlier_release_left_without_hashes_is_made_again(rows, undisturbed, tmp_path):
    bank = make_bank(tmp_path / "bank", *rows)
    with pytest.raises(StoppedError):
        indexing.build(bank, kind="ivf", recall=0.9, k=5, bar=stopped_at("lists merged"))
    making = bank.path / ".index-ivf.making"
    (making / "saved.json").unlink()
    shutil.copy(making / "part-00001.faiss", making / "part-00002.faiss")
    assert indexing.build(bank, kind="ivf", recall=0.9, k=5).record.built == undisturbed.record.built
