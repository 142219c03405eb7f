"""What CARP's Table 1 costs on ImageNet: FLOPs, bytes, and hours on this machine, from rates measured here.

    python benchmarks/bill.py                        # rates of this machine: its processor, or its GPU if it has one
    python benchmarks/bill.py --devices 8            # the same for so many GPUs of the kind that was measured
    python benchmarks/bill.py --cores 2 --json rates.json

The work is the suite `carp-table1` as its cards have it, on a ResNet-50: images counted from the table of data sets,
epochs and crops from the cards. Each rate is measured on a slice, in this run:

- `decode`: a 500 x 375 JPEG to its 224-pixel centre, `crop`: to a random crop; images a second of one core;
- `thumbnail`: the same to the 16 pixels by which near-duplicates are looked for;
- `forward`: the trunk on batches in memory, images a second of one device;
- `search`: FLOP/s of the exact search, its order settled; `head`: FLOP/s of the linear head's training steps;
- `machine`: seconds of one support vector machine on VOC07's 5,011 rows.

Where the network runs on the processor, decoding and forward share its cores, and their times add up; beside a GPU they
overlap, and the slower of the two is what is waited for. Hours are quantity over rate and nothing else: no start-up, no
pauses, a disk that keeps up (the bytes read are given).
"""

import argparse
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from svm import SOLVER, make, plan
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.transforms import v2

from carp_eval.cards import loading
from carp_eval.cards import suite as suites
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.linear import AugmentedLinearCard
from carp_eval.cards.voc07 import Voc07Card
from carp_eval.data.table import row_of
from carp_eval.evaluation import svm
from carp_eval.evaluation.svm import Kept
from carp_eval.features.extraction.forward import choose_device
from carp_eval.features.search.in_memory import search

DIM = 2048
# Mean bytes of a file: of ILSVRC2012's archives (138 GB and 6.7 GB) and VOC2007's (870 MB with annotations).
FILE_BYTES = {"imagenet": 109e3, "voc07": 87e3}
LEAST_SECONDS = 3.0


@dataclass
class Line:
    """One part of the work.

    Attributes:
        what: Its name.
        images: Images that go through the network.
        view: How each of them is made of its file: a rate's name.
        flops: Beside the network's.
        rate: The rate of those FLOPs, or of `machines`.
        machines: Support vector machines.
        read: Bytes read.
        written: Bytes written.
        forward: Whether the images go through the network at all.
    """

    what: str
    images: float = 0
    view: str = "decode"
    flops: float = 0
    rate: str = ""
    machines: int = 0
    read: float = 0
    written: float = 0
    forward: bool = True


def work():
    """List the suite's parts; features of a split are extracted once for all that ask for the same preprocessing."""
    lines, banked = [], set()
    for entry in suites.suite("carp-table1").entries:
        card = loading.protocol_card(entry.kind, entry.variant, entry.changes)
        name = entry.dataset
        sizes = row_of(name).splits
        train, test = (sizes["trainval"], sizes["test"]) if name == "voc07" else tuple(sizes.values())
        file = FILE_BYTES[name]

        def extraction(what, count, name=name, file=file, card=card):
            key = (name, what, card.preprocessing)
            if key not in banked:
                banked.add(key)
                lines.append(
                    Line(f"{name}: {what}, features", count, read=count * file, written=count * DIM * 2)
                )

        match card:
            case KnnCard():
                both = train + test
                extraction("train", train)
                extraction("test", test)
                lines.append(
                    Line(
                        f"{name}: thumbnails, for leaks",
                        both,
                        view="thumbnail",
                        forward=False,
                        read=both * file,
                    )
                )
                lines.append(
                    Line(
                        f"{name}: neighbours",
                        flops=2.0 * train * test * DIM,
                        rate="search",
                        read=2.0 * both * DIM,
                    )
                )
            case Voc07Card():
                extraction("trainval", train)
                extraction("test", test)
                fits = 20 * (len(card.costs) * card.folds * card.chooses + len(card.costs))
                lines.append(Line(f"{name}: {fits} machines", machines=fits, rate="machine"))
            case AugmentedLinearCard():
                seen = train * card.epochs
                # Forward, and the gradients of weights and bias; the trunk is frozen, so none goes back.
                steps = 4.0 * seen * DIM * 1000
                lines.append(
                    Line(
                        f"{name}: linear, {card.epochs} epochs",
                        seen,
                        view="crop",
                        flops=steps,
                        rate="head",
                        read=seen * file,
                    )
                )
                extraction("test, squashed", test)
    return lines


def per_second(run, count):
    """How many a second, over at least a few seconds, after one turn that does not count."""
    run()
    started, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < LEAST_SECONDS:
        run()
        done += count
    return done / elapsed


def photograph():
    """Encode smooth noise with about a photograph's detail."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), 3)
    grain = random.normal(0, 6, (375, 500, 1))
    encoded = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
        encoded, "JPEG", quality=90
    )
    return encoded.getvalue()


def measure(device, batch_size, rows):
    """Return every rate, of one core where images are made and of all of the device elsewhere."""
    file = photograph()
    resize = v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC)
    finish = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    centre = v2.Compose([resize, v2.CenterCrop(224), finish])
    crop = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), finish])

    def made(change):
        return lambda: change(Image.open(io.BytesIO(file)).convert("RGB"))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {
        "decode": per_second(made(centre), 1),
        "crop": per_second(made(crop), 1),
        "thumbnail": per_second(made(lambda image: image.resize((16, 16), 2)), 1),
    }
    torch.set_num_threads(threads)

    network = resnet50()
    network.fc = torch.nn.Identity()
    network.eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode():
        with counter:
            network(images[:1])

        def forward():
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                network(images)
            if device.type == "cuda":
                torch.cuda.synchronize()

        rates["forward"] = per_second(forward, batch_size)

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, DIM, generator=generator)

    def features(count):
        labels = torch.randint(1000, (count,), generator=generator)
        drawn = (torch.randn(count, DIM, generator=generator) + centres[labels]).relu_()
        return torch.nn.functional.normalize(drawn)

    bank, queries = features(rows), features(rows // 10)
    rates["search"] = per_second(lambda: search(bank, queries, k=200), 2.0 * len(bank) * len(queries) * DIM)

    head = torch.nn.Linear(DIM, 1000).to(device)
    seen, labels = features(256).to(device), torch.randint(1000, (256,)).to(device)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)

    def step():
        loss = torch.nn.functional.cross_entropy(head(seen), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    rates["head"] = per_second(step, 4.0 * 256 * DIM * 1000)

    values, targets = make(5_011, DIM, 2, seed=1)
    tasks = [
        task for task in plan(values, targets, [0.5], 3, lambda _: np.zeros(1)) if (task.targets != 0).all()
    ]
    started = time.perf_counter()
    svm.train(
        tasks,
        width=1,
        solver=SOLVER,
        kept=Kept(""),
        name="machines",
        progress=lambda _done, _total: None,
        threads=1,
    )
    rates["machine"] = len(tasks) / (time.perf_counter() - started)
    return rates, counter.get_total_flops()


def hours(line, rates, *, on_gpu, devices, cores):
    """Quantity over rate: added up where one processor does all, the longest where a GPU runs beside it."""
    made = line.images / (rates[line.view] * cores)
    through = line.images * line.forward / (rates["forward"] * devices)
    scale = {"machine": cores, "head": 1, "search": devices, "": 1}[line.rate]
    rest = (line.flops or line.machines) / (rates[line.rate] * scale) if line.rate else 0.0
    together = max(made, through) if on_gpu else made + through
    return (together + rest) / 3600


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="Default: a GPU if there is one.")
    parser.add_argument("--devices", type=int, default=1, help="GPUs to reckon with, of the measured kind.")
    parser.add_argument("--cores", type=int, default=torch.get_num_threads(), help="Cores to reckon with.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--rows", type=int, default=50_000, help="Of the bank by which the search is measured."
    )
    parser.add_argument("--json", type=Path, help="Write rates and hours here too.")
    options = parser.parse_args()

    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    rates, image_flops = measure(device, options.batch_size, options.rows)
    console = Console()
    console.print(f"one image through the ResNet-50: {image_flops / 1e9:.2f} GFLOP")
    for name, rate in rates.items():
        unit = {"search": "GFLOP/s", "head": "GFLOP/s", "machine": "a second of one core"}.get(
            name, "images/s"
        )
        console.print(f"{name:10} {rate / 1e9 if unit == 'GFLOP/s' else rate:10.1f} {unit}")
    where = f"{options.devices} x {torch.cuda.get_device_name(device)}" if on_gpu else "the processor"
    table = Table(title=f"CARP's Table 1 on {where}, {options.cores} cores")
    for column in ("part", "images", "FLOP", "read, GB", "written, GB", "hours"):
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    total = [0.0] * 5
    for line in work():
        flops = line.images * line.forward * image_flops + line.flops
        spent = hours(line, rates, on_gpu=on_gpu, devices=options.devices, cores=options.cores)
        row = [line.images, flops, line.read / 1e9, line.written / 1e9, spent]
        total = [whole + part for whole, part in zip(total, row, strict=True)]
        table.add_row(line.what, f"{row[0]:,.0f}", f"{row[1]:.2e}", *(f"{value:,.2f}" for value in row[2:]))
    table.add_section()
    table.add_row("all", f"{total[0]:,.0f}", f"{total[1]:.2e}", *(f"{value:,.2f}" for value in total[2:]))
    console.print(table)
    if options.json:
        told = {"rates": rates, "image_flops": image_flops, "where": where, "hours": total[-1]}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
