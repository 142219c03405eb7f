"""What an installation has, and what is wrong with it."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from carp_eval import files, plugins
from carp_eval.cards import kinds, methods
from carp_eval.data import opening, plugged, table
from carp_eval.errors import PluginError, StorageError


@dataclass(frozen=True)
class Finding:
    """One part of the installation.

    Attributes:
        part: What was looked at.
        found: What is there.
        problem: What is wrong with it and what to do; empty if nothing is.
    """

    part: str
    found: str
    problem: str = ""


def examine(*, data_root: Path | None = None) -> list[Finding]:
    """Look at everything that a training or an evaluation leans on."""
    looks: list[Callable[[], Finding]] = [_python, _machine, _torch, _cuda, _torchvision, _faiss, _home]
    datasets = [_dataset(name, data_root) for name in table.TABLE]
    return [look() for look in looks] + _plugins() + datasets


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} at {sys.executable}")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    return Finding(
        "machine", f"{cores} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    )


def _torch() -> Finding:
    import torch

    return Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none: everything runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", ", ".join(names))


def _torchvision() -> Finding:
    try:
        torchvision = importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return Finding(
            "torchvision",
            "does not import",
            f"{error}. torchvision's wheels need torch's CUDA build (it runs on a CPU too): install both together anew",
        )
    return Finding("torchvision", torchvision.__version__)


def _faiss() -> Finding:
    installed = [name for name in ("faiss-gpu", "faiss-cpu") if _version(name)]
    if len(installed) == 2:
        return Finding(
            "faiss",
            " and ".join(f"{name} {_version(name)}" for name in installed),
            "both own the module faiss and break each other: uninstall both, then install faiss-gpu on Linux x86-64, "
            "faiss-cpu elsewhere",
        )
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        return Finding("faiss", "does not import", f"{error}: install the package anew")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    return Finding(
        "faiss",
        f"{' '.join(installed)} {faiss.__version__}, {gpus} GPUs, {faiss.omp_get_max_threads()} threads",
    )


def _home() -> Finding:
    home = files.home()
    try:
        files.make_folder(home)
        probe = home / ".doctor"
        files.write_text(probe, "")
        probe.unlink()
    except StorageError as error:
        return Finding("cache", str(home), f"{error}; or set CARP_HOME to a folder you may write to")
    free = shutil.disk_usage(home).free
    problem = (
        ""
        if free > 2**30
        else "under 1 GiB is free: a bank of ImageNet needs 5.2 GB; set CARP_HOME elsewhere"
    )
    return Finding("cache", f"{home}, {free / 2**30:.0f} GiB free", problem)


def _plugins() -> list[Finding]:
    """Import everything that other packages bring, and say what does not work."""
    adds = {
        plugins.PROTOCOLS: ("protocol", kinds.plugin, kinds.KINDS),
        plugins.METHODS: ("method", methods.plugin, methods.TYPES),
        plugins.DATASETS: ("data set", plugged.plugin, table.TABLE),
    }
    findings: list[Finding] = []
    for group, (what, load, ours) in adds.items():
        for name, points in plugins.found(group).items():
            package = " and ".join(map(plugins.package, points))
            problem = (
                ""
                if name not in ours
                else f"there is a {what} of that name already, which is used: rename it"
            )
            try:
                load(name)
            except PluginError as error:
                problem = str(error)
            findings.append(Finding(f"plugin {name}", f"{what}, from {package}", problem))
    return findings


def _dataset(name: str, data_root: Path | None) -> Finding:
    if table.TABLE[name].embedded:
        return Finding(f"data {name}", "comes with the package")
    place = opening.local_copy(name, data_root=data_root)
    return Finding(
        f"data {name}", str(place) if place else "no local copy; `carp data list` says how to get one"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
