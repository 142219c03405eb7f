import os
import pickle

import pytest
import torch
from torch import nn

from carp_eval.checkpoints import reading
from carp_eval.errors import CheckpointError


class Hostile:
    """Runs a command when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_tensors_and_plain_values_come_back(tmp_path):
    torch.save({"weight": torch.arange(4), "step": 3}, tmp_path / "good.pt")
    content = reading.read(tmp_path / "good.pt")
    assert content["step"] == 3
    assert torch.equal(content["weight"], torch.arange(4))


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_with_code_inside_is_refused_and_the_code_does_not_run(tmp_path, save):
    trace = tmp_path / "ran"
    save({"weight": Hostile(trace)}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match="was refused"):
        reading.read(tmp_path / "hostile.pt")
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_said_to_be(tmp_path, keep):
    path = tmp_path / "cut.pt"
    torch.save({"weight": torch.randn(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        reading.read(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("not weights at all")
    # Its first letter tells torch's interpreter to take what no letter before it gave.
    (tmp_path / "card.pt").write_text('extends = "knn@dino"')
    torch.save([1, 2], tmp_path / "list.pt")
    for name, expected in (
        ("text.pt", "refused|cannot be read"),
        ("card.pt", "cannot be read"),
        ("list.pt", "holds a list"),
        ("no.pt", "there is no"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            reading.read(tmp_path / name)


def test_weights_of_another_network_are_listed_and_nothing_is_loaded():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = {
        "0.weight": torch.ones(2, 3),
        "0.bias": torch.ones(3),
        "1.bias": torch.ones(2),
        "2.weight": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as caught:
        reading.fill(module, state, where="the file")
    told = str(caught.value)
    assert "missing: 1.weight" in told
    assert "unexpected: 2.weight" in told
    assert "0.bias (3,) instead of (2,)" in told
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
