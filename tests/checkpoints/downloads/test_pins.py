import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from carp_eval.checkpoints.downloads import pins
from carp_eval.errors import CheckpointError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))


def test_a_pin_is_kept_by_source_and_replaced(tmp_path):
    assert pins.find("a") is None
    pins.keep("a", sha256="1" * 64, size=10)
    pins.keep("b", sha256="2" * 64, size=20)
    pins.keep("a", sha256="3" * 64, size=30)
    assert (pins.find("a").sha256, pins.find("a").size) == ("3" * 64, 30)
    assert pins.find("b").sha256 == "2" * 64
    written = json.loads((tmp_path / "pins.json").read_text())
    assert set(written["pins"]) == {"a", "b"}


def test_pins_kept_at_once_are_all_there():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: pins.keep(f"s{number}", sha256=f"{number:064x}", size=1), range(40)))
    assert [pins.find(f"s{number}").sha256 for number in range(40)] == [
        f"{number:064x}" for number in range(40)
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"pins": {"a": {"sha256": "short", "size": 1, "date": ""}}}'])
def test_a_broken_file_is_said_and_left(tmp_path, content):
    (tmp_path / "pins.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"pins\.json.* put it right, or remove it"):
        pins.find("a")
    with pytest.raises(CheckpointError):
        pins.keep("a", sha256="1" * 64, size=1)
    assert (tmp_path / "pins.json").read_text() == content
