"""What a method's loss adds to a training step, and what the step takes over its trunk alone.

    python benchmarks/throughput.py            # on a GPU: ResNet-50, 224 px, batch 256, bf16, K = 65,536
    python benchmarks/throughput.py --quick    # on a CPU: ResNet-18, 64 px, batch 16, K = 4,096
    python benchmarks/throughput.py --compute channels_last --compute checkpoint_activations

Input is made up and lies on the device: no loading, no augmentation. A step is what the loop does: loss of two views
with student and teacher, backward, the teacher follows, the optimiser moves (a recipe's own). Against it stand

- the same step with the loss replaced by the sum of everything it is given: embeddings, targets and prototypes. What
  is between the two is the loss alone. The goal on a GPU is at most 8 %;
- forward and backward of the student's trunk, with neither head, teacher nor optimiser;
- with --compute, the same step with one of the options of a recipe's `compute` table each.

All take turns in one process, after one turn that does not count (three, where something is compiled); medians are
given, and ratios of medians. Memory is what autograd keeps of the student's forward pass and, on a GPU, the
allocator's highest in a step.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from carp_eval.cards import loading
from carp_eval.cards.recipe import ComputeCard
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import memory
from carp_eval.pretrain.carp import Carp, embed
from carp_eval.pretrain.method import Losses, Step

STEP, SUM, TRUNK = "the step", "with a sum for the loss", "trunk, forward and backward"
GPU = {
    "arch": "resnet50",
    "size": 224,
    "batch": 256,
    "precision": "bf16",
    "prototypes": 65_536,
    "repeats": 20,
}
QUICK = {
    "arch": "resnet18",
    "size": 64,
    "batch": 16,
    "precision": "float32",
    "prototypes": 4096,
    "repeats": 7,
}
OPTIONS = tuple(ComputeCard.model_fields)


class Summed(Carp):
    """CARP with a sum for its loss; every network and every weight takes part as ever."""

    def loss(self, batch, *, student, step):
        """Sum everything that the loss is given."""
        del step
        embedded = embed(student, batch.views)
        with torch.no_grad():
            targets = embed(self.teacher, batch.views)
        return Losses(embedded.float().sum() + targets.float().sum() + self.student.prototypes.weight.sum())


class Form:
    """A method in training, with what it needs for a step."""

    def __init__(self, method, batch, *, bf16, compute=None):
        self.method, self.batch, self.bf16 = method, batch, bf16
        if compute is not None:
            memory.prepare(method, compute, device=batch.views[0].device)
        self.optimiser = method.optimiser()
        method.set_rates(self.optimiser, 1e-4, Step(0, 0, 0.0))
        self.number = 0

    def autocast(self):
        """Run networks in the form's precision."""
        return torch.autocast(self.batch.views[0].device.type, torch.bfloat16, enabled=self.bf16)

    def step(self):
        """Take a step as the loop does."""
        place = Step(self.number, 0, 0.0)
        with self.autocast():
            losses = self.method.loss(self.batch, student=self.method.student, step=place)
        # The loop looks at each loss before it goes on.
        losses.total.item()
        losses.total.backward()
        self.method.before_update(place)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.method.after_update(place)
        self.number += 1

    def trunk(self):
        """Take the trunk forward and backward."""
        with self.autocast():
            features = self.method.student.trunk(torch.cat(self.batch.views))
        features.sum().backward()
        self.optimiser.zero_grad(set_to_none=True)

    def kept(self):
        """Return the bytes that autograd keeps of a forward pass, weights not counted."""
        sizes = {}

        def note(tensor):
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), self.autocast():
            embedded = embed(self.method.student, self.batch.views)
        weights = {parameter.data_ptr() for parameter in self.method.student.parameters()}
        del embedded
        return sum(size for place, size in sizes.items() if place not in weights)


def seconds(run, device):
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def medians(runs, *, repeats, uncounted, device):
    taken = {name: [] for name in runs}
    for turn in range(repeats + uncounted):
        for name, run in runs.items():
            spent = seconds(run, device)
            if turn >= uncounted:
                taken[name].append(spent)
    return {name: statistics.median(spent) for name, spent in taken.items()}


def highest(run, device):
    """Return the most bytes that a GPU's allocator gave out in a step, all forms' weights included."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def recipe_of(options):
    changes = {
        "trunk.architecture": f'"{options.arch}"',
        "prototypes.count": str(options.prototypes),
        "partition.block_size": str(min(512, options.prototypes)),
        "schedule.batch_size": str(options.batch),
        "schedule.precision": f'"{options.precision}"',
    }
    return loading.recipe(options.recipe, changes)


def machine(device):
    cpu = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), cpu)
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    return f"{cpu}, {where}; torch {torch.__version__}, Python {platform.python_version()}"


def measure(console, options, device):
    recipe = recipe_of(options)
    bf16 = options.precision == "bf16"
    chance = torch.Generator(device).manual_seed(0)
    shape = (options.batch, recipe.trunk.channels, options.size, options.size)
    views = [torch.randn(shape, generator=chance, device=device) for _ in range(2)]
    batch = TrainingBatch(views, torch.arange(options.batch))
    plain = Form(Carp(recipe, device=device), batch, bf16=bf16)
    forms = {STEP: plain, SUM: Form(Summed(recipe, device=device), batch, bf16=bf16)}
    runs = {name: form.step for name, form in forms.items()} | {TRUNK: plain.trunk}
    for option in options.compute:
        name = f"the step, {option}"
        card = ComputeCard(**{option: True})
        forms[name] = Form(Carp(recipe, device=device), batch, bf16=bf16, compute=card)
        runs[name] = forms[name].step
    taken = medians(
        runs, repeats=options.repeats, uncounted=3 if "compile" in options.compute else 1, device=device
    )
    table = Table(
        title=f"{recipe.trunk.architecture}, {options.size} px, {options.batch} images x 2 views, {options.precision}, "
        f"K = {options.prototypes:,}; median of {options.repeats}"
    )
    table.add_column("form", no_wrap=True)
    for column in ("ms", "images/s", "x sum", "x trunk", "kept MiB", "peak GiB"):
        table.add_column(column, justify="right")
    for name, spent in taken.items():
        form = forms.get(name)
        peak = highest(runs[name], device)
        table.add_row(
            name,
            f"{spent * 1e3:.1f}",
            f"{options.batch / spent:.1f}",
            f"{spent / taken[SUM]:.3f}",
            f"{spent / taken[TRUNK]:.3f}",
            "" if form is None or "compile" in name else f"{form.kept() / 2**20:.0f}",
            f"{peak / 2**30:.2f}" if peak else "",
        )
    console.print(table)
    console.print(f"the loss adds {taken[STEP] / taken[SUM] - 1:.1%} to the step")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="sizes for a CPU; the default where there is no GPU"
    )
    parser.add_argument(
        "--recipe", default="carp-resnet50-100ep", help="a CARP recipe, for all that is not said here"
    )
    parser.add_argument("--device", help="a torch device; a GPU if there is one")
    parser.add_argument("--arch", choices=["resnet18", "resnet50"])
    parser.add_argument("--size", type=int, help="side of a view")
    parser.add_argument("--batch", type=int, help="images in a step")
    parser.add_argument("--precision", choices=["float32", "bf16"])
    parser.add_argument("--prototypes", type=int, help="K")
    parser.add_argument("--repeats", type=int, help="turns of each form")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--compute", action="append", choices=OPTIONS, default=[], help="measure an option too"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for name, value in (QUICK if options.quick or device.type == "cpu" else GPU).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.batch <= 1:
        parser.error("--batch: BatchNorm needs two images or more")
    console = Console(width=130)
    console.print(machine(device))
    measure(console, options, device)


if __name__ == "__main__":
    main()
