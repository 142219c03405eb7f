import pytest

from carp_eval.checkpoints.downloads import transfer
from tests.checkpoints.http_server import Server


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    server = Server()
    yield server
    server.close()
