"""What is asked waits neither for the votes, which are counted meanwhile, nor for the map."""

import signal
import threading
import time

import numpy as np
import pytest

from carp_eval.report import plane
from carp_eval.report.explorer import apart, routes, serving, votes
from carp_eval.report.explorer.choosing import Chosen
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.searching import Searcher
from carp_eval.report.explorer.side import Side
from carp_eval.report.explorer.votes import Votes
from tests.report.explorer import rows
from tests.report.explorer.asking import ask


def side_of(bank, **options):
    return Side(Chosen(bank, None), Exhibit(bank, None), **options)


@pytest.fixture
def bank(tmp_path):
    return rows.make(tmp_path / "bank", labels=[0, 1] * 20, names=("a", "b"))


def test_a_pick_does_not_wait_for_votes_that_take_long(serve, bank):
    side = side_of(bank)
    quick, begun, go = side.searcher.others, threading.Event(), threading.Event()

    def others(numbers, *, k, progress=None):
        if progress is not None:
            begun.set()
            while not go.is_set():
                time.sleep(0.01)
                progress(0, len(numbers))
        return quick(numbers, k=k)

    side.searcher.others = others
    address = serve([side])
    try:
        assert begun.wait(30)
        told = ask(address, "/api/sides/0/images/3?k=4").told
        features, labels, _ = rows.read(bank)
        assert [each["image"] for each in told["neighbours"]] == rows.neighbours(features, 3, 4)[0]
        assert side.votes.done == 0
    finally:
        go.set()
    # Then they are counted, none left out.
    for _ in range(600):
        if side.votes.is_complete:
            break
        time.sleep(0.05)
    assert side.votes.predicted.tolist() == [rows.taken_for(features, labels, row) for row in range(40)]


def test_a_bank_on_disk_is_let_go_of_in_the_middle(tmp_path):
    bank = rows.make(tmp_path / "bank", labels=[0, 1] * 90_000, names="ab", dim=128)
    # Less than its rows take in float32.
    counted = Votes(Exhibit(bank, None), Searcher(bank, memory=90_000_000), most=20)
    asked = []

    def wanted():
        asked.append(True)
        return len(asked) > 2

    next(counted.steps(wanted))()
    assert len(asked) == 3
    assert counted.done == 0
    assert (counted.predicted == votes.UNKNOWN).all()
    for step in counted.steps():
        step()
    features, labels, _ = rows.read(bank)
    assert counted.done == 20
    # At once: a pass over the disk is as long for one as for all.
    assert len(list(counted.steps())) == 0
    judged = counted.rows[:3]
    assert counted.predicted[judged].tolist() == [rows.taken_for(features, labels, row) for row in judged]


def test_pieces_are_as_long_as_a_pick_may_wait(tmp_path, monkeypatch):
    bank = rows.make(tmp_path / "bank", labels=[0, 1] * 150, names="ab")
    searcher, sizes = Searcher(bank), []
    quick = searcher.others

    def others(numbers, *, k, progress=None):
        sizes.append(len(numbers))
        # Ten milliseconds a row.
        time.sleep(0.01 * len(numbers))
        return quick(numbers, k=k)

    searcher.others = others
    monkeypatch.setattr(votes, "SECONDS", 0.08)
    counted = Votes(Exhibit(bank, None), searcher, most=60)
    for step in counted.steps():
        step()
    assert sum(sizes) == 60
    assert max(sizes[2:]) <= 8
    assert max(sizes) == 16
    # And where rows take next to nothing, many are counted together.
    monkeypatch.setattr(
        searcher, "others", lambda numbers, *, k, progress: sizes.append(len(numbers)) or quick(numbers, k=k)
    )
    monkeypatch.setattr(votes, "SECONDS", 60.0)
    sizes.clear()
    for step in Votes(Exhibit(bank, None), searcher, most=300).steps():
        step()
    assert sizes == [16, 16, 32, 64, 128, 44]


def test_a_pick_does_not_wait_for_the_map_and_gets_its_place_when_that_is_drawn(serve, bank, monkeypatch):
    go, maps = threading.Event(), []

    async def slowly(_, features):
        while not go.is_set():
            await routes.anyio.sleep(0.01)
        return plane.draw(features, umap=False)

    monkeypatch.setattr(routes.Explorer, "_unfolded", slowly)
    address = serve([side_of(bank, umap=True)])
    waiting = threading.Thread(target=lambda: maps.append(ask(address, "/api/sides/0/map").told))
    waiting.start()
    try:
        told = ask(address, "/api/sides/0/images/3").told
        assert told["place"] is None
        assert len(told["neighbours"]) == 12
        ticket = f"/api/sides/0/places/{told['placing']}"
        early = ask(address, ticket)
        assert (early.status, early.told["error"]) == (409, "the map is not drawn yet")
        assert maps == []
    finally:
        go.set()
        waiting.join()
    placed = ask(address, ticket).told
    assert placed == {"x": maps[0]["x"][3], "y": maps[0]["y"][3], "how": ""}
    # Once; and what is asked from now on has its place at once.
    assert ask(address, ticket).status == 404
    told = ask(address, "/api/sides/0/images/3").told
    assert (told["place"], told["placing"]) == (placed, None)


def test_answers_that_nobody_asks_the_place_of_are_forgotten(bank, monkeypatch):
    side = side_of(bank)
    tickets = [side.of_image(row, k=3)["placing"] for row in range(40)]
    map_ = side.map()
    assert side.place(tickets[-1]) == {"x": map_["x"][39], "y": map_["y"][39], "how": ""}
    with pytest.raises(routes.UsageError, match="ask again"):
        side.place(tickets[0])
    assert len(side._waiting) < 40


def test_umap_has_a_process_of_its_own(serve, tmp_path):
    # So few rows that UMAP hands over to principal components: its process is what counts.
    bank = rows.make(tmp_path / "bank", labels=[0] * 12, names=("a",))
    address = serve([side_of(bank, umap=True)])
    told = ask(address, "/api/sides/0/map").told
    features, _, _ = rows.read(bank)
    centred = features - features.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    assert abs(np.corrcoef(told["x"], centred @ axis)[0, 1]) > 0.9999
    assert "principal components" in told["how"]


def test_a_map_that_takes_long_does_not_keep_the_server_from_ending(serve, tmp_path, monkeypatch):
    bank = rows.make(tmp_path / "bank", labels=[0] * 12, names=("a",))
    explorer = routes.Explorer([side_of(bank, umap=True)])
    started = threading.Event()
    start = apart.Unfolding.start

    def begin(self):
        start(self)
        started.set()

    monkeypatch.setattr(apart.Unfolding, "start", begin)
    listening = serving.listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = serving.server(explorer.app(token=None), ending=explorer.stop)
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(address, "/api/sides/0/map")))
    asking.start()
    # Its process loads torch for a second or more.
    assert started.wait(20)
    began = time.perf_counter()
    server.handle_exit(signal.SIGTERM, None)
    asking.join(20)
    running.join(20)
    assert time.perf_counter() - began < serving.GRACE
    assert answers[0].status == 409
    assert "has ended" in answers[0].told["error"]
