"""Packages that are not needed by everybody."""

import importlib
from types import ModuleType

from carp_eval.errors import UsageError


def require(module: str, *, needed_for: str, extra: str = "") -> ModuleType:
    """Import a package that an extra installs.

    Args:
        module: The package.
        needed_for: What needs it, as the user spelled it.
        extra: The extra; empty where it has the package's name.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UsageError(
            f"{needed_for} needs the package {module}, which is not installed: "
            f"pip install 'carp-eval[{extra or module}]'"
        ) from error
