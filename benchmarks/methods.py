"""Every method for some minutes on 5,000 images of CIFAR-10, with the small network: one table.

    python benchmarks/methods.py --data-root DATA               # all ten, about half an hour of one core
    python benchmarks/methods.py --data-root DATA --only carp --only carl --only swav
    python benchmarks/methods.py --data-root DATA --seed 0 --seed 1 --seed 2
    python benchmarks/methods.py --data-root DATA --quick       # 512 images, an epoch: tries the script, says little

Each method trains its recipe `cifar10-5k-METHOD`: the same images, views, trunk, batch and epochs; head, loss and
optimiser are the method's own. Judged are the trunk's features: a bank of the 5,000 images, and the whole test split as
queries, by 20-NN (knn@dino) and the linear grid (linear@cached-grid). Beside them stand raw pixels and the same trunk
before training. A run in `-o` that was stopped goes on where it was, and one that is done is read.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from carp_eval.cards import loading
from carp_eval.checkpoints import runs
from carp_eval.checkpoints.opening import open_model
from carp_eval.data import opening, subset
from carp_eval.data.loading import in_memory
from carp_eval.data.preprocessing import for_model
from carp_eval.evaluation import knn, linear
from carp_eval.features.extraction.running import extract
from carp_eval.metrics.label_free import rank_me
from carp_eval.pretrain import journal, start

RECIPES = "cifar10-5k-"
NEIGHBOURS = 20
QUICK = {"schedule.epochs": "1", "data.num_images": "512"}


class Said:
    """Passes on what a training says, and keeps its warnings."""

    def __init__(self, console, path):
        self.console = console
        self.path = path

    def step(self, *, step, num_steps, values, told):  # noqa: ARG002
        """Say now and then how it goes."""
        if step % 100 == 0 or step == num_steps:
            self.console.print(f"  step {step} of {num_steps}: {told}", highlight=False)

    def say(self, text):
        """Say it, and keep it if it warns."""
        self.console.print(f"  {text}", highlight=False)
        if text.startswith("warning"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def methods():
    """All that have a recipe; the three that are named first, first."""
    found = [
        name.removeprefix(RECIPES) for name in loading.names(loading.RECIPES) if name.startswith(RECIPES)
    ]
    first = ["carp", "carl", "swav"]
    return [*first, *sorted(set(found) - set(first))]


def train(name, recipe, folder, changes, options, console):
    """Train to the end, and return what the log tells of it."""
    said = Said(console, folder / "warnings.txt")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    outcome = start.train(
        start.plan(
            RECIPES + name,
            changes=changes,
            folder=folder,
            data_root=options.data_root,
            device=options.device,
            display=said,
        )
    )
    if outcome.stopped_by is not None:
        sys.exit(f"stopped by {outcome.stopped_by.name}; the same command goes on")
    steps = [entry for entry in journal.entries(folder) if "loss" in entry]
    warnings = said.path.read_text(encoding="utf-8").splitlines() if said.path.is_file() else []
    last_epoch = [entry["loss"] for entry in steps if entry["epoch"] > recipe.schedule.epochs - 1]
    return {
        "epochs": recipe.schedule.epochs,
        "steps": outcome.num_steps,
        "first_loss": steps[0]["loss"],
        "first_loss_step": steps[0]["step"],
        "last_loss": statistics.mean(last_epoch),
        "last_shown": {key: value for key, value in steps[-1].items() if key not in ("step", "epoch")},
        "seconds": time.perf_counter() - started,
        "warnings": warnings,
    }


def judge(spelling, images, options):
    """Score the features of a model: 20-NN, linear, and how many directions they span."""
    model = open_model(str(spelling))
    bank, queries = (
        extract(
            model,
            part,
            for_model(loading.preprocessing("knn@dino"), model.input),
            batch_size=256,
            device=options.device,
            bank_home=options.output / "banks",
        )
        for part in images
    )
    neighbours = knn.run(loading.protocol_card("knn", "dino", {"k": [NEIGHBOURS]}), bank, queries, 0)
    grid = linear.run(loading.protocol_card("linear", "cached-grid"), bank, queries, 0)
    found = {"effective_rank": rank_me(torch.cat([part.float() for part in bank.shards()]), epsilon=0.0)}
    for key, outcome in (("knn", neighbours), ("linear", grid)):
        score = next(score for score in outcome.scores if score.metric == "top1")
        found |= {key: score.value, f"{key}_interval": [score.low, score.high]}
    return found


def kept(path, recipe, make):
    """Return what `make` finds, or has found for this very recipe before."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fingerprint = loading.fingerprint(recipe)
    if known.get("recipe") != fingerprint:
        known = {"recipe": fingerprint, **make()}
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return known


def measure(name, seed, images, options, console):
    """One method with one seed, behind it what it is held against: the same for all, so the first time alone."""
    changes = {**(QUICK if options.quick else {}), "seed": str(seed)}
    recipe = loading.recipe(RECIPES + name, changes)
    folder = options.output / f"{name}-seed{seed}-{loading.fingerprint(recipe)[:8]}"

    def make():
        found = train(name, recipe, folder, changes, options, console)
        return {"method": recipe.method, "seed": seed, **found, **judge(folder, images, options)}

    return kept(folder / "measured.json", recipe, make), folder


def baselines(seed, folder, images, options):
    """Raw pixels, and the trunk that every method starts from: the seed's, whatever stands above it.

    Args:
        seed: Of the run.
        folder: Any run of that seed.
        images: Bank and queries.
        options: The command's.
    """
    rows = []
    for name, scheme in (("raw pixels", "pixels"), ("random initialisation", "random")):
        path = options.output / f"{scheme}-seed{seed}{'-quick' if options.quick else ''}.json"
        recipe = runs.read_recipe(folder)
        same = recipe.trunk, recipe.data
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("same") != repr(same):
            known = {"same": repr(same), "method": name, "seed": seed}
            known |= judge(f"{scheme}:{folder}", images, options)
            path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        rows.append(known)
    return rows


def draw(rows):
    """The table: means over seeds, with the lowest and the highest where there are several."""
    table = Table(
        title="top-1 in percent; the loss at its first entry in the log and as the last epoch's mean"
    )
    for column in ("", "loss", "20-NN", "linear", "effective rank", "minutes", "warnings"):
        table.add_column(column, justify="left" if column in ("", "warnings") else "right")
    by_method = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)

    def told(own, key):
        values = [row[key] for row in own]
        spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    for name, own in by_method.items():
        trained = "last_loss" in own[0]
        table.add_row(
            name,
            f"{own[0]['first_loss']:.2f} to {own[0]['last_loss']:.2f}" if trained else "",
            *(told(own, key) for key in ("knn", "linear", "effective_rank")),
            f"{own[0]['seconds'] / 60:.1f}" if trained else "",
            f"{len(own[0]['warnings'])}" if trained else "",
        )
    return table


def main():
    known = methods()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="Folder that holds cifar10.")
    parser.add_argument("--only", action="append", choices=known, help="Repeatable. Default: all.")
    parser.add_argument("--seed", type=int, action="append", help="Repeatable. Default: 0.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()

    console = Console()
    data = loading.recipe(RECIPES + "carp", QUICK if options.quick else {}).data
    train_split, test_split = (
        opening.open_images(data.name, split, data_root=options.data_root)
        for split in (data.split, data.evaluation_split)
    )
    train_split = subset.some(train_split, data.num_images)
    if options.quick:
        test_split = subset.some(test_split, data.num_images)
    images = [in_memory(part, channels=3, num_workers=0) for part in (train_split, test_split)]
    rows = []
    for seed in options.seed or [0]:
        for number, name in enumerate(options.only or known):
            console.print(f"{name}, seed {seed}")
            row, folder = measure(name, seed, images, options, console)
            if number == 0:
                rows += baselines(seed, folder, images, options)
            rows.append(row)
            console.print(draw(rows))
    machine = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"
    sizes = f"bank {len(train_split):,} images, queries {len(test_split):,}"
    console.print(f"{sizes}; {machine}, torch {torch.__version__}")
    if options.json:
        told = {"machine": machine, "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
