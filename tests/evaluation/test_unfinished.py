import pytest
import torch

from carp_eval.errors import StorageError
from carp_eval.evaluation.unfinished import Unfinished


def test_what_was_saved_last_comes_back(tmp_path):
    kept = Unfinished(tmp_path / "deep" / "state.pt")
    assert kept.load() is None
    kept.save({"epoch": 1, "weights": torch.arange(3.0)})
    kept.save({"epoch": 2, "weights": torch.arange(4.0)})
    state = Unfinished(kept.path).load()
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.arange(4.0))
    kept.remove()
    assert kept.load() is None
    kept.remove()


def test_a_damaged_file_is_no_state(tmp_path):
    kept = Unfinished(tmp_path / "state.pt")
    kept.save({"epoch": 1})
    content = kept.path.read_bytes()
    for damaged in (content[:40], b"", b"nonsense"):
        kept.path.write_bytes(damaged)
        assert kept.load() is None


def test_a_disk_that_refuses_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Unfinished(tmp_path / "file" / "state.pt").save({"epoch": 1})
