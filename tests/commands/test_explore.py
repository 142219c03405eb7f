"""`carp explore` as a shell starts it: what it prints, whom it answers, how it ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from carp_eval.commands import listening
from carp_eval.commands.listening import names
from tests.report.explorer import rows


@pytest.fixture
def bank(tmp_path):
    return rows.make(tmp_path / "home" / "banks" / "made", labels=[0, 1] * 20, names=("a", "b"))


def ask(address, path, **headers):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", path, headers=headers)
    with connection.getresponse() as response:
        return response.status, response.read(), response.headers


def addresses(family):
    """Return the machine's addresses, but those that only it knows; its name where it has none."""
    found = {each.address for own in psutil.net_if_addrs().values() for each in own if each.family == family}
    return {each for each in found if not each.startswith(("127.", "::1", "fe80"))} or {socket.gethostname()}


def test_it_serves_until_it_is_interrupted_and_ends_in_order(tmp_path, bank):
    others = {name.lower() for name in addresses(socket.AF_INET) | {socket.gethostname()}}
    started = subprocess.Popen(
        [
            *(sys.executable, "-c", "from carp_eval.commands import main; main()"),
            *("explore", str(bank.path), "--port", "0", "--host", "0.0.0.0"),
        ],
        cwd=tmp_path,
        env={**os.environ, "CARP_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = [started.stdout.readline() for _ in range(4)]
        assert told[0] == "made: 40 images, searched exact, in memory\n"
        elsewhere, parts = (urlsplit(line.strip()) for line in told[1:3])
        assert elsewhere.hostname in others
        address = told[2].strip()
        assert parts.hostname == "127.0.0.1"
        assert parts.query.startswith("token=")
        assert (elsewhere.port, elsewhere.query) == (parts.port, parts.query)
        # Other machines reach it, and need the token.
        assert ask(address, "/")[0] == 401
        status, _, headers = ask(address, f"/?{parts.query}")
        assert status == 303
        cookie = headers["set-cookie"].partition(";")[0]
        status, content, _ = ask(address, "/api/sides/0/images/3?k=4", Cookie=cookie)
        assert status == 200
        features, _, _ = rows.read(bank)
        near, _ = rows.neighbours(features, 3, 4)
        assert [each["image"] for each in json.loads(content)["neighbours"]] == near
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 0
    assert "Traceback" not in errors
    # That neither images nor model are there, is said.
    assert "nowhere" in errors
    assert "made" in errors


def test_a_port_that_is_taken_is_said(carp_in, tmp_path, bank):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, told = carp_in(tmp_path)("explore", bank.path, "--port", port)
    assert code == 2
    assert f"port {port}" in told
    assert "--port" in told


def test_an_address_that_is_not_this_machines_is_said(carp_in, tmp_path, bank):
    code, _, told = carp_in(tmp_path)("explore", bank.path, "--host", "192.0.2.1", "--port", "0")
    assert code == 2
    assert "192.0.2.1" in told


def test_without_a_bank_the_way_to_one_is_said(carp_in, tmp_path):
    code, _, told = carp_in(tmp_path)("explore")
    assert code == 2
    assert "carp extract" in told


def test_umap_that_is_not_installed_is_said(carp_in, tmp_path, bank, monkeypatch):
    from carp_eval.report import plane

    monkeypatch.setattr(plane, "umap_is_there", lambda: False)
    code, _, told = carp_in(tmp_path)("explore", bank.path, "--map", "umap")
    assert code == 2
    assert "pip install" in told


@pytest.mark.parametrize(
    ("host", "token", "expected"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:80/"),
        ("::1", None, "http://[::1]:80/"),
        ("192.0.2.7", "t", "http://192.0.2.7:80/?token=t"),
        ("machine.example", "t", "http://machine.example:80/?token=t"),
    ],
)
def test_the_address_can_be_opened(host, token, expected):
    from carp_eval.report.explorer import serving

    assert serving.address(host, 80, token) == expected


def test_every_name_of_the_machine_is_told_by_one_that_others_can_open_and_its_own():
    assert names("127.0.0.1") == ["127.0.0.1"]
    assert names("machine.example") == ["machine.example"]
    for host, family, own in (
        ("0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("", socket.AF_INET, "127.0.0.1"),
        ("::", socket.AF_INET6, "::1"),
    ):
        other, mine = names(host)
        assert mine == own
        assert other in addresses(family) | {socket.gethostname()}


def test_a_machine_in_no_network_is_told_by_its_name(monkeypatch):
    # No address is of this family.
    monkeypatch.setitem(listening._EVERYWHERE, "0.0.0.0", ("127.0.0.1", socket.AF_INET, "::1"))
    monkeypatch.setattr(socket, "gethostname", lambda: "made-up")
    assert names("0.0.0.0") == ["made-up", "127.0.0.1"]


def test_the_browser_is_not_waited_for():
    import threading

    from carp_eval.report.explorer import serving

    opened, going = [], threading.Event()

    def browser(address):
        going.wait(10)
        opened.append(address)
        return True

    serving.show("http://127.0.0.1:1/", browser)
    assert opened == []
    going.set()
