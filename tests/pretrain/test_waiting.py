"""What goes by waiting, by a clock that the test moves."""

import pytest
import torch

from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import waiting
from carp_eval.pretrain.waiting import Waiting, advice

BATCH = TrainingBatch([torch.zeros(1, 1, 2, 2)], torch.zeros(1, dtype=torch.int64))


class Clock:
    """Stands still but when told to go on."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(waiting.time, "perf_counter", lambda: self.now)

    def batches(self, seconds):
        for taken in seconds:
            self.now += taken
            yield BATCH


def watched(monkeypatch, loading, steps):
    clock, seen = Clock(monkeypatch), Waiting(torch.device("cpu"))
    count = 0
    for _, step in zip(seen.watch(clock.batches(loading)), steps):
        clock.now += step
        count += 1
    assert count == len(loading)
    return seen


def test_the_share_is_the_time_between_asking_and_having(monkeypatch):
    seen = watched(monkeypatch, loading=[0.5] * 43, steps=[1.5] * 43 + [0.0])
    assert seen.steps == 40
    assert seen.share == pytest.approx(0.25)
    assert seen.seconds == pytest.approx((0.5, 2.0))


def test_the_first_steps_do_not_count_and_later_ones_push_out_the_older(monkeypatch):
    seen = watched(monkeypatch, loading=[9.0] * 3 + [0.1] * 10, steps=[0.9] * 13 + [0.0])
    assert seen.share == pytest.approx(0.1)
    seen = watched(monkeypatch, loading=[1.0] * 60 + [0.0] * 50, steps=[1.0] * 110 + [0.0])
    assert seen.share == 0.0
    assert Waiting(torch.device("cpu")).share == 0.0


def told(monkeypatch, share, **options):
    seen = watched(monkeypatch, loading=[share] * 30, steps=[1 - share] * 30 + [0.0])
    monkeypatch.setattr(waiting, "_cores", lambda: 8)
    return advice(seen, **({"batch_size": 64, "augment": "per_image", "num_workers": 2} | options))


def test_what_is_said_names_the_share_and_what_helps(monkeypatch):
    assert told(monkeypatch, 0.15) == ""
    said = told(monkeypatch, 0.6)
    assert said.startswith("warning: 60% of a step's time goes by waiting for images")
    assert "training takes 64 a second, and could take 160" in said
    assert "--workers; there are 2, and 8 cores" in said
    assert "data.augment=on_device" in said
    enough = told(monkeypatch, 0.6, num_workers=8, augment="on_device")
    assert "--workers" not in enough
    assert "on_device" not in enough
    assert "stored smaller" in enough


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_only_the_time_it_stands_still_counts():
    def batches(seconds):
        import time

        for _ in range(30):
            time.sleep(seconds)
            yield BATCH

    matrix = torch.randn(4096, 4096, device="cuda")
    busy, idle = Waiting(torch.device("cuda")), Waiting(torch.device("cuda"))
    for _ in busy.watch(batches(0.002)):
        for _ in range(20):
            matrix @ matrix
    for _ in idle.watch(batches(0.05)):
        (matrix @ matrix)[0, 0].item()
    torch.cuda.synchronize()
    assert busy.share < 0.2
    assert idle.share > 0.6
