"""Licences by their SPDX identifiers: how one is spelled, and which let others publish weights again."""

import re

from carp_eval.errors import UsageError

# Those that models are released under. What forbids changes is not here: converted weights are changed ones.
_LETS_PUBLISH = frozenset(
    {
        "0BSD",
        "AFL-3.0",
        "AGPL-3.0-only",
        "AGPL-3.0-or-later",
        "Apache-2.0",
        "Artistic-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD-3-Clause-Clear",
        "BSL-1.0",
        "CC-BY-2.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-NC-2.0",
        "CC-BY-NC-3.0",
        "CC-BY-NC-4.0",
        "CC-BY-NC-SA-3.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "ISC",
        "LGPL-3.0-only",
        "LGPL-3.0-or-later",
        "MIT",
        "MPL-2.0",
        "Unlicense",
        "Zlib",
    }
)
_FOLDED = frozenset(name.casefold() for name in _LETS_PUBLISH)


def lets_publish(licence: str) -> bool:
    """Tell whether a licence is known to let others publish the weights again; of one that is not known, it is not."""
    return licence.casefold() in _FOLDED


def check(licence: str) -> str:
    """Return a licence that a user told, if it is spelled as SPDX identifiers are.

    Raises:
        UsageError: If it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        raise UsageError(
            f"--licence takes an SPDX identifier such as apache-2.0 or cc-by-4.0, got {licence!r}"
        )
    return licence
