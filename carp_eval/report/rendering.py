"""From a template to a page: every text is escaped, and nothing but the page's own style and script may act in it."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from carp_eval.report import svg

STYLE = "report.css"


def render(template: str, *, scripts: Sequence[str], **told: Any) -> str:
    """Fill a template in.

    Args:
        template: Its name. It puts `style`, `script` and `policy` where they belong.
        scripts: Names of what runs in the page, in their order.
        told: What the template speaks of.
    """
    loader = jinja2.PackageLoader("carp_eval.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["lines"] = _lines
    style = loader.get_source(environment, STYLE)[0]
    script = "\n".join(loader.get_source(environment, name)[0] for name in scripts)
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        policy=(
            f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        **told,
    )


def _final(value: Any) -> Any:
    """Make any text that a template prints one that a page can hold; what is markup already stays."""
    return svg.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(value: str) -> Markup:
    """Escape a text of several lines, each by itself."""
    return Markup("\n").join(svg.plain(line) for line in value.split("\n"))


def _allowed(content: str) -> str:
    """Return what lets a policy allow this very style or script, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"
