"""Cards as TOML text, which the standard library reads and does not write."""

import json
from collections.abc import Mapping
from typing import Any

from carp_eval.cards.frozen import Card


def toml(card: Card) -> str:
    """Return the text of a card: what it says beside its defaults."""
    content = card.model_dump(mode="json", exclude_defaults=True)
    return "".join(_table(content, ())).lstrip("\n")


def _table(content: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    # A table of tables needs no heading of its own, but an empty one would be lost without.
    if path and (plain or not content):
        lines.append(f"\n[{'.'.join(map(_key, path))}]\n")
    lines += [f"{_key(key)} = {_value(value)}\n" for key, value in plain.items()]
    for key, value in content.items():
        if isinstance(value, Mapping):
            lines += _table(value, (*path, key))
    return lines


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _text(key)


def _value(value: Any) -> str:
    match value:
        case str():
            return _text(value)
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return repr(value)


def _text(value: str) -> str:
    # JSON escapes what TOML must have escaped, all but one; it would write what is not ASCII as pairs, so it may not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
