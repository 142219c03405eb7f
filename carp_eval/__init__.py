"""Train CARP, bank the features of any vision model once, and score them by named, reproducible protocols.

The public names, which only a new major version may change:

- `load` opens a model by its spelling, or takes a network of Python.
- `extract` turns a data set or a folder of photographs into a `Bank`, or a list of images into a tensor.
- `evaluate` scores a model by a named protocol and returns the `Result`.
- `Bank`, `Model` and `Result` are what those return; `CarpError` is what all of them raise.

They are imported when they are first used: `import carp_eval` alone takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carp_eval.errors import CarpError
    from carp_eval.features.bank import Bank
    from carp_eval.library import evaluate, extract, load
    from carp_eval.models.model import Model
    from carp_eval.results import Result

__all__ = ["Bank", "CarpError", "Model", "Result", "evaluate", "extract", "load"]

_HOMES = {
    "Bank": "carp_eval.features.bank",
    "CarpError": "carp_eval.errors",
    "Model": "carp_eval.models.model",
    "Result": "carp_eval.results",
    "evaluate": "carp_eval.library",
    "extract": "carp_eval.library",
    "load": "carp_eval.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
