"""Time and memory of the CARP loss against its plain form and the bare matrix products.

    python benchmarks/loss.py            # time and memory, K = 65,536; on a GPU too if there is one
    python benchmarks/loss.py --growth   # K = 65,536, 262,144 and 1,048,576 with 256 images

Time: the forms take turns in one process, after one turn that does not count; medians are given. Forward and
backward together, embeddings given. The bare products are the four that the loss cannot do without (logits
of student and teacher, gradients of embeddings and prototypes), written into memory that is there already.

Memory: each form runs once in a process of its own, after a small one that loads the libraries. What counts is
the highest resident memory (the kernel's VmHWM, set back just before; on a GPU the allocator's highest)
less what was resident before, inputs included, and less the gradients.

In the table, `x products` is the time over the bare products', `plain x it` the plain form's time over this
one's, and `of plain's` the peak over the plain form's, in both cases of the plain form with the same
prototypes: of unit norm (the default, which costs a pass over them) or of free norm.
"""

import argparse
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from carp_eval.pretrain import partition  # noqa: E402 - found only from the root
from carp_eval.pretrain.carp_loss import carp_loss  # noqa: E402
from tests.pretrain.plain_carp import plain_carp  # noqa: E402

BLOCK_SIZE, DIM, VIEWS = 512, 256, 2
NUM_PROTOTYPES = 65_536
GROWTH = (65_536, 262_144, 1_048_576)
GROWTH_IMAGES = 256
PRODUCTS, OURS, PLAIN = "bare products", "ours", "plain form"
FREE = ", free norm"


@dataclass
class Problem:
    """Inputs of one step: embeddings as given, random prototypes, one partition."""

    student: Tensor
    teacher: Tensor
    prototypes: Tensor
    teacher_prototypes: Tensor
    blocks: Tensor

    def forget(self):
        """Let go of the gradients."""
        self.student.grad = self.prototypes.grad = None


def make(images, num_prototypes, device):
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=device)

    return Problem(
        student=(0.6 * normal(VIEWS, images, DIM)).requires_grad_(),
        teacher=0.6 * normal(VIEWS, images, DIM),
        prototypes=normal(num_prototypes, DIM).requires_grad_(),
        teacher_prototypes=normal(num_prototypes, DIM),
        blocks=partition.draw(num_prototypes, block_size=BLOCK_SIZE, generator=generator),
    )


def step(problem, form):
    """Take loss and gradients in one form."""
    problem.forget()
    loss = carp_loss if form.startswith(OURS) else plain_carp
    parts = loss(
        problem.student,
        problem.teacher,
        problem.prototypes,
        problem.teacher_prototypes,
        problem.blocks,
        unit_norm=not form.endswith(FREE),
    )
    parts[0].backward()


def products(problem):
    """Return a function that does the bare products."""
    student, teacher = problem.student.detach().flatten(0, 1), problem.teacher.flatten(0, 1)
    prototypes, others = problem.prototypes.detach(), problem.teacher_prototypes
    logits, target_logits = student @ prototypes.T, teacher @ others.T
    gradient = torch.randn_like(logits)
    by_student, by_prototype = torch.empty_like(student), torch.empty_like(prototypes)

    def run():
        torch.mm(student, prototypes.T, out=logits)
        torch.mm(teacher, others.T, out=target_logits)
        torch.mm(gradient, prototypes, out=by_student)
        torch.mm(gradient.T, student, out=by_prototype)

    return run


def seconds(run, device):
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(problem, forms, *, repeats, device):
    runs = {PRODUCTS: products(problem)}
    runs |= {form: lambda form=form: step(problem, form) for form in forms}
    taken = {form: [] for form in runs}
    for turn in range(repeats + 1):
        for form, run in runs.items():
            spent = seconds(run, device)
            problem.forget()
            if turn:
                taken[form].append(spent)
    return {form: statistics.median(spent) for form, spent in taken.items()}


def measure_memory(form, images, num_prototypes, device):
    """Run one step and return the bytes that it needs at most, and the seconds of a second step."""
    step(make(2, 2 * BLOCK_SIZE, device), form)
    problem = make(images, num_prototypes, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(problem, form)
        most = torch.cuda.max_memory_allocated()
    else:
        forget_highest()
        before = resident("VmRSS")
        step(problem, form)
        most = resident("VmHWM")
    gradients = sum(t.grad.numel() * t.grad.element_size() for t in (problem.student, problem.prototypes))
    problem.forget()
    return {
        "above": most - before - gradients,
        "most": most,
        "seconds": seconds(lambda: step(problem, form), device),
    }


def forget_highest():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print(
            "the highest memory cannot be set back here: it may be that of an earlier moment", file=sys.stderr
        )


def resident(field):
    """Return resident memory in bytes: now (VmRSS) or at its highest (VmHWM)."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the highest is all there is to have
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def in_own_process(form, images, num_prototypes, device, threads):
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", form]
    command += ["--images", str(images), "--prototypes", str(num_prototypes), "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(done.stderr, end="", file=sys.stderr)
    return json.loads(done.stdout)


def compare(console, images, options, device):
    forms = [OURS, PLAIN, OURS + FREE, PLAIN + FREE]
    problem = make(images, options.prototypes, device)
    taken = medians(problem, forms, repeats=options.repeats, device=device)
    del problem
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    table = Table(
        title=f"{device}, {images} images x {VIEWS} views, K = {options.prototypes:,}, "
        f"N_B = {BLOCK_SIZE}, d = {DIM}; median of {options.repeats}",
    )
    table.add_column("form", no_wrap=True)
    for column in ("ms", "x products", "plain x it", "peak MiB", "of plain's"):
        table.add_column(column, justify="right")
    table.add_row(PRODUCTS, f"{taken[PRODUCTS] * 1e3:.1f}", "1.00", "", "", "")
    above = {
        form: in_own_process(form, images, options.prototypes, device, options.threads)["above"]
        for form in forms
    }
    for form in forms:
        plain = PLAIN + (FREE if form.endswith(FREE) else "")
        table.add_row(
            form,
            f"{taken[form] * 1e3:.1f}",
            f"{taken[form] / taken[PRODUCTS]:.2f}",
            f"{taken[plain] / taken[form]:.2f}",
            f"{above[form] / 2**20:.1f}",
            f"{above[form] / above[plain]:.3f}",
        )
    console.print(table)


def grow(console, options, device):
    table = Table(
        title=f"{device}, {GROWTH_IMAGES} images x {VIEWS} views, N_B = {BLOCK_SIZE}, d = {DIM}; one step"
    )
    for column in ("K", "s", "s per 65,536", "peak GiB", "above inputs and gradients, MiB"):
        table.add_column(column, justify="right")
    for num_prototypes in GROWTH:
        found = in_own_process(OURS, GROWTH_IMAGES, num_prototypes, device, options.threads)
        table.add_row(
            f"{num_prototypes:,}",
            f"{found['seconds']:.2f}",
            f"{found['seconds'] * GROWTH[0] / num_prototypes:.2f}",
            f"{found['most'] / 2**30:.2f}",
            f"{found['above'] / 2**20:.1f}",
        )
    console.print(table)


def machine(device, threads):
    cpu = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        names = [
            line.split(":", 1)[1].strip() for line in listed.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"{cpu}, {threads} threads{gpu}; torch {torch.__version__}, Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--growth", action="store_true", help="larger and larger K instead of the comparison")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="both where there are both, if left out")
    parser.add_argument(
        "--images", type=int, help="images of a step; 64 on a CPU, 256 and 1024 on a GPU if left out"
    )
    parser.add_argument("--prototypes", type=int, default=NUM_PROTOTYPES, help="K")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each form")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--measure", metavar="FORM", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        found = measure_memory(options.measure, options.images, options.prototypes, options.device)
        print(json.dumps(found))
        return
    console = Console()
    devices = [options.device] if options.device else ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    for device in devices:
        console.print(machine(device, options.threads))
        if options.growth:
            grow(console, options, device)
            continue
        for images in [options.images] if options.images else {"cpu": [64], "cuda": [256, 1024]}[device]:
            compare(console, images, options, device)


if __name__ == "__main__":
    main()
