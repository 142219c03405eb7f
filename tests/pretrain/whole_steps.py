"""A whole step of every method, by one process or by two: its loss, and the gradient of each parameter.

Networks are float64 and BatchNorm is frozen: what is compared is then the same number, but for the order of sums.
"""

import os

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from carp_eval import distributed
from carp_eval.cards import loading
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import loop, methods
from tests.features.processes import Started

IMAGES = 32
SMALL = {
    "schedule.batch_size": str(IMAGES),
    "schedule.knn_epochs": "0",
    "optimiser.warmup_epochs": "0",
    "head.hidden_dim": "16",
    "head.output_dim": "8",
}
PROTOTYPES = {"prototypes.count": "12"}
CROPS = {"views": "[{size = 16, count = 2}, {size = 8, count = 2, to_teacher = false}]"}
CARP = {"prototypes.count": "32", "partition.block_size": "8"}
# A method of ours, and what its recipe for the digits is changed to.
CASES = {
    "carp": ("carp", CARP),
    "carp, multi-crop": ("carp", CARP | CROPS),
    "carp, siamese": ("carp", CARP | {"teacher.kind": '"none"'}),
    "carl": ("carl", PROTOTYPES),
    "simclr": ("simclr", {}),
    "byol": ("byol", {"predictor.hidden_dim": "16", "predictor.output_dim": "8"}),
    "simsiam": ("simsiam", {"predictor.hidden_dim": "4", "predictor.output_dim": "8"}),
    "moco-v2": ("moco-v2", {"queue.length": "128", "teacher.groups": "2"}),
    "barlow-twins": ("barlow-twins", {}),
    "swav": ("swav", PROTOTYPES),
    "swav, multi-crop": ("swav", PROTOTYPES | CROPS),
    "deepcluster-v2": ("deepcluster-v2", PROTOTYPES),
    "sela-v2": ("sela-v2", PROTOTYPES),
}


def recipe_of(case, **changes):
    """Return the recipe of a case; a double underscore in a name stands for a dot."""
    name, own = CASES[case]
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return loading.recipe("digits" if name == "carp" else f"digits-{name}", SMALL | own | changes)


def in_double(monkeypatch, *, frozen=True):
    """Let all methods be built in float64, and their losses stay in it."""
    build, to_single = methods.build, torch.Tensor.float

    def built(recipe, *, device):
        method = build(recipe, device=device)
        for network in (method.student, method.teacher):
            if network is None:
                continue
            network.double()
            for part in network.modules():
                if frozen and isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    part.eval()
        if recipe.method == "moco-v2":
            method.queue.keys = method.queue.keys.double()
        return method

    monkeypatch.setattr(methods, "build", built)
    # Losses are float32 at the least: of NT-Xent and Barlow Twins, whose parts cancel, too few digits would be left.
    monkeypatch.setattr(
        torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else to_single(tensor)
    )


def training_of(recipe, batches):
    """Start a training; what is labelled once an epoch has its labels."""
    training = loop.Training(recipe, batches=batches, accelerator=Accelerator(cpu=True), resume=None)
    if recipe.method in ("deepcluster-v2", "sela-v2"):
        chance = torch.Generator().manual_seed(1)
        shape = recipe.prototypes.sets, batches.num_images
        labels = torch.randint(-1, recipe.prototypes.count, shape, generator=chance)
        # An image has a label in all sets or in none.
        labels[:, (labels < 0).any(dim=0)] = -1
        features = torch.zeros(IMAGES, recipe.num_assigned, recipe.head.output_dim)
        training.method.take_state(
            {"labels": labels, "memory_index": torch.arange(IMAGES), "memory_features": features}
        )
    return training


def batch_of(recipe, *, dtype=torch.float64):
    """Return random views of the recipe's number and sizes, of this process's images."""
    chance = torch.Generator().manual_seed(0)
    sizes = [min(view.size, 16) for view in recipe.views for _ in range(view.count)]
    views = [torch.randn(IMAGES, 1, size, size, generator=chance, dtype=dtype) for size in sizes]
    number, processes = distributed.rank(), distributed.world_size()
    return TrainingBatch(
        [view.chunk(processes)[number] for view in views], torch.arange(IMAGES).chunk(processes)[number]
    )


def step_of(case, batches, **changes):
    """Take a step; return its loss, and the gradients by parameter."""
    recipe = recipe_of(case, **changes)
    training = training_of(recipe, batches)
    gradients, then = {}, training.method.before_update

    def before_update(step):
        for name, parameter in training.method.student.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()
        then(step)

    training.method.before_update = before_update
    return training.take_step(batch_of(recipe))["loss"], gradients


def by_two(jobs, batches, folder):
    """Take steps in two processes; return for each the mean of the losses, and the first process's gradients."""
    started = [Started(_steps, jobs, batches, str(folder / "store"), rank) for rank in (0, 1)]
    first, second = (process.answer() for process in started)
    assert first is not None
    assert second is not None
    steps = []
    for (one, gradients), (other, _) in zip(first, second, strict=True):
        steps.append(
            ((one + other) / 2, {name: torch.from_numpy(array) for name, array in gradients.items()})
        )
    return steps


def _steps(jobs, batches, store, rank):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    AcceleratorState._reset_state(reset_partial_state=True)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        taken = [step_of(case, batches, **changes) for case, changes in jobs]
        # Not tensors: their memory would have to outlive this process.
        return [(loss, {name: gradient.numpy() for name, gradient in found.items()}) for loss, found in taken]
    finally:
        dist.destroy_process_group()


def apart(found, wanted):
    """Return the largest distance of a parameter's gradient, relative to its length.

    A parameter whose true gradient is 0 (a bias above which something is centred) has one of rounding: what counts
    little beside the whole gradient's length is no distance.
    """
    assert found.keys() == wanted.keys()
    whole = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    return max(
        ((found[name] - gradient).norm() / (gradient.norm() + 1e-8 * whole)).item()
        for name, gradient in wanted.items()
    )
