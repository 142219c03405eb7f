"""What a model can be written for, and what can be told of a wish before anything heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from carp_eval import files
from carp_eval.checkpoints.doors import extras
from carp_eval.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class Target:
    """What a model can be written for.

    Attributes:
        suffixes: The endings that a file for it may have, the usual one in front.
        options: The settings, beside type and size, that it takes.
        modules: Packages that it needs beside torch.
        extra: The extra that installs them.
        elsewhere: What is to be said of suffixes that others use for it.
    """

    suffixes: tuple[str, ...]
    options: frozenset[str] = frozenset()
    modules: tuple[str, ...] = ()
    extra: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict[str, str])


TARGETS = {
    "torchvision": Target((".pth", ".pt", ".safetensors")),
    "timm": Target((".safetensors", ".pth", ".pt"), modules=("timm",), extra="timm"),
    "onnx": Target(
        (".onnx",),
        options=frozenset({"batch", "opset"}),
        modules=("onnx", "onnxscript", "onnxruntime"),
        extra="export",
    ),
    "torch-export": Target((".pt2",), options=frozenset({"batch"})),
    "detectron2": Target(
        (".pth",), elsewhere={".pkl": "detectron2 reads .pth too, which runs no code when it is read"}
    ),
}


def check(
    target: str, path: Path, *, force: bool = False, batch: int | None = None, opset: int | None = None
) -> None:
    """Find out before long work whether a model can be written so.

    Args:
        target: What it is for, by its name in `TARGETS`.
        path: The file.
        force: Whether a file that is there may be replaced.
        batch: Images in a batch, if that is fixed.
        opset: ONNX's, if it was chosen.

    Raises:
        UnknownNameError: If there is no such target.
        UsageError: If the path's suffix, an option or a package that is not installed stands in the way, or the file is
            there.
        StorageError: If its folder cannot be written to.
    """
    if target not in TARGETS:
        raise UnknownNameError("target of an export", target, TARGETS)
    known = TARGETS[target]
    if path.is_dir():
        raise UsageError(f"{path} is a folder; say which file to write")
    if path.suffix not in known.suffixes:
        hint = f" ({known.elsewhere[path.suffix]})" if path.suffix in known.elsewhere else ""
        raise UsageError(
            f"a file for {target} ends in {' or '.join(known.suffixes)}, not in {path.suffix or 'nothing'}{hint}: say "
            f"{path.with_suffix(known.suffixes[0])}"
        )
    for option, value in {"batch": batch, "opset": opset}.items():
        if value is not None and option not in known.options:
            having = " and ".join(name for name, other in TARGETS.items() if option in other.options)
            raise UsageError(f"--{option} goes with {having}; {target} has none: leave it out")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: choose another name, or say --force to replace it")
    files.check_writable(path.parent)
    for module in known.modules:
        extras.require(module, needed_for=f"an export to {target}", extra=known.extra)
