"""Jobs that train on the small split of tests/features/scene.py, in this process or in two."""

from dataclasses import replace
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from carp_eval.cards import kinds, loading
from carp_eval.evaluation.job import Job, Settings
from carp_eval.evaluation.probe_training import Training
from tests.features import scene
from tests.features.processes import Started
from tests.features.scene import DIM, SIDE, Noise

# Whole images, as they are: what a trunk gives of them can be known without the code under test.
STILL = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 0.0}
SMALL = {"batch_size": 16, "epochs": 3}


class Flat(nn.Module):
    """A trunk without BatchNorm: a matrix on the pixels."""

    def __init__(self):
        super().__init__()
        chance = torch.Generator().manual_seed(1)
        self.linear = nn.Linear(SIDE * SIDE, DIM, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(DIM, SIDE * SIDE, generator=chance) / SIDE)

    def forward(self, images):
        return self.linear(images.flatten(1))


class StopError(Exception):
    pass


def card(name, **changes):
    content = loading.read(loading.folder("protocols") / f"{name}.toml", "protocols") | changes
    return loading.check(kinds.card_type(content), content, where=name)


def coloured(count, *, seed, bad=()):
    """Images whose brightness tells their class, most of the time."""
    images = Noise(count, seed=seed, bad=bad)
    images.content[:] = images.content // 4 + (images.labels * 40)[:, None, None].astype(np.uint8)
    return images


def job(
    home,
    protocol,
    *,
    network=None,
    count=50,
    bad=(),
    bad_queries=(),
    dataset="noise",
    seed=0,
    leaks="ignore",
    **settings,
):
    """Make a job whose splits are there already; what it keeps and banks goes to `home`."""
    model = replace(scene.model(network), dataset="elsewhere")
    settings = {"num_workers": 0, "device": "cpu", "batch_size": 8} | settings
    made = Job(
        protocol, model, dataset, settings=Settings(bank_home=home, **settings), seed=seed, leaks=leaks
    )
    made.opened["train"] = coloured(count, seed=1, bad=bad)
    made.opened["test"] = coloured(30, seed=2, bad=bad_queries)
    return made


def state_of(job, stage):
    """Return what a run has kept of its last epoch."""
    return torch.load(job.unfinished().path, weights_only=True)[stage]


def flattened(state):
    """Return every number of the trained modules of a state."""
    return torch.cat(
        [value.double().flatten() for module in state["modules"].values() for value in module.values()]
    )


def run_and_watch(run, job):
    """Return a run's outcome, and every number of the modules that this process has trained."""
    seen = []
    plain = Training.run

    def watched(self, *args, **options):
        seen.append(self)
        plain(self, *args, **options)

    with mock.patch.object(Training, "run", watched):
        outcome = run(job)
    state = {name: module.state_dict() for name, module in seen[-1].modules.items()}
    return outcome, flattened({"modules": state}).numpy()


def stopping(what, at):
    """Return a progress that stops the work of a name once so many images are done."""

    def bar(name):
        def tell(done, total):
            if name == what and done >= at:
                raise StopError

        return tell

    return bar


def bytes_of(network):
    return [
        (name, value.numpy().tobytes(), value.dtype, network.training)
        for name, value in network.state_dict().items()
    ]


def in_two_processes(function, home, *args):
    """Return what a function gives in each of two processes that work together."""
    home.mkdir(exist_ok=True)
    started = [Started(_joined, function, rank, home, args) for rank in (0, 1)]
    answers = [process.answer() for process in started]
    assert None not in answers
    return answers


def _joined(function, rank, home, args):
    dist.init_process_group("gloo", init_method=f"file://{home / 'store'}", rank=rank, world_size=2)
    try:
        return function(home, *args)
    finally:
        dist.destroy_process_group()
