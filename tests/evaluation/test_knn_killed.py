import json
import os
import random
import signal
import time

import torch

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.features.search import search_plan, streamed
from carp_eval.features.stored import StoredRows
from tests.features.processes import Started

KILLS = 10
SLAB_ROWS = 4
SLABS = 96 // SLAB_ROWS


def run(dataset, output, log, *, delay):
    """Evaluate by a streamed search whose every slab takes its time and is kept."""
    slab = StoredRows.slab

    def slowly(rows, start, stop, *, into):
        time.sleep(delay)
        with log.open("a") as file:
            file.write(f"{start}\n")
        return slab(rows, start, stop, into=into)

    StoredRows.slab = slowly
    streamed.fits = lambda *_: False
    streamed.SECONDS_BETWEEN_SAVES = 0.0
    search_plan.MOST_SLAB_ROWS = SLAB_ROWS
    card = loading.protocol_card("knn", "dino", {"k": [5, 20]})
    settings = Settings(num_workers=0, device="cpu")
    _, path = evaluate(
        open_model("random:digits"), card, dataset=f"folder:{dataset}", settings=settings, output=output
    )
    return path


def found(path):
    record = json.loads(path.read_text())
    return record["scores"], path.with_suffix(".parquet").read_bytes()


def test_killed_at_ten_random_moments_a_search_goes_on_and_gives_the_same_bytes(
    digit_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    log = tmp_path / "log"
    undisturbed = Started(run_undisturbed, digit_folder, tmp_path / "whole").answer()
    draws, killed, kept = random.Random(0), 0, 0
    delay = 0.01
    while killed < KILLS:
        started = Started(run_slowly, digit_folder, tmp_path / "killed", log, delay)
        before = seen(log)
        patience = time.monotonic() + 30
        # From before it reads what was kept to where little is left.
        after = draws.randint(0, SLABS // 3)
        while seen(log) < before + after and started.process.is_alive() and time.monotonic() < patience:
            time.sleep(0.002)
        time.sleep(draws.uniform(0, delay))
        if not started.process.is_alive():
            assert started.answer() is not None
            continue
        os.kill(started.process.pid, signal.SIGKILL)
        assert started.answer() is None
        killed += 1
        kept += bool(list((tmp_path / "home" / "unfinished").glob("*.pt")))
    assert kept > 1
    log.unlink()
    (left,) = (tmp_path / "home" / "unfinished").glob("*.pt")
    rows_done = torch.load(left, weights_only=True)["rows_done"]
    path = Started(run_slowly, digit_folder, tmp_path / "killed", log, 0.0).answer()
    assert int(log.read_text().split()[0]) == rows_done > 0
    assert found(path) == found(undisturbed)
    assert not list((tmp_path / "home" / "unfinished").iterdir())


def run_undisturbed(dataset, output):
    card = loading.protocol_card("knn", "dino", {"k": [5, 20]})
    _, path = evaluate(
        open_model("random:digits"),
        card,
        dataset=f"folder:{dataset}",
        settings=Settings(num_workers=0, device="cpu"),
        output=output,
    )
    return path


def run_slowly(dataset, output, log, delay):
    return run(dataset, output, log, delay=delay)


def seen(log):
    return len(log.read_text().splitlines()) if log.exists() else 0
