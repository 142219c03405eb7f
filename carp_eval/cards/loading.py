"""From a name or a path to a card: find it, read it, extend it, change it, check it."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards import kinds, methods
from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.cards.frozen import Card, Frozen
from carp_eval.cards.protocol import PreprocessingCard, ProtocolCard
from carp_eval.cards.published import PublishedCard
from carp_eval.cards.recipe import RecipeCard
from carp_eval.cards.shelf import PROTOCOLS, PUBLISHED, RECIPES, ZOO, folder, names, variants
from carp_eval.errors import CardError, UnknownNameError, UsageError

AnyCard = TypeVar("AnyCard", bound=Frozen)


def recipe(name: str, changes: Mapping[str, str] | None = None) -> RecipeCard:
    """Read a recipe card.

    Args:
        name: A name in `zoo/recipes`, one that another package's method brings, or a path ending in `.toml`.
        changes: Values by dotted key, `schedule.epochs`, written as in TOML (bare words are strings).

    Raises:
        UnknownNameError: If there is no such recipe.
        CardError: If the card is broken, or a change does not fit it.
    """
    # Other packages are asked only for what we have not.
    known = {} if name.endswith(".toml") or name in names(RECIPES) else methods.recipes()
    path = known[name] if name in known else find(name, RECIPES, what="recipe", others=known)
    content = read(path, RECIPES)
    for key, value in (changes or {}).items():
        _change(content, key, value)
    return as_recipe(content, where=str(path))


def changed_recipe(card: RecipeCard, changes: Mapping[str, str]) -> RecipeCard:
    """Return a recipe with some values changed.

    Args:
        card: The recipe.
        changes: Values by dotted key, as `recipe` takes them.

    Raises:
        CardError: If a change does not fit it.
    """
    if not changes:
        return card
    content = card.model_dump(mode="json")
    for key, value in changes.items():
        _change(content, key, value)
    return as_recipe(content, where="the recipe of the run")


def as_recipe(content: Mapping[str, Any], *, where: str) -> RecipeCard:
    """Turn content into the recipe of its method.

    Raises:
        CardError: If a key is missing, unknown or of the wrong type; the message names each.
        UnknownNameError: If there is no such method.
        PluginError: If the method is another package's, which does not work.
    """
    return check(methods.recipe_type(content), content, where=where)


def checkpoint_card(name: str) -> CheckpointCard:
    """Read a checkpoint card.

    Args:
        name: A model of the zoo, one that was imported on this machine, or a path ending in `.toml`.

    Raises:
        UnknownNameError: If there is no such model.
        CardError: If the card is broken.
    """
    imported = imported_cards()
    path = imported[name] if name in imported else find(name, ZOO, what="model", others=imported)
    return check(CheckpointCard, read(path, ZOO), where=str(path))


def imported_cards() -> dict[str, Path]:
    """Return the cards of models that were imported on this machine under names of their own, by name."""
    return {path.parent.name: path for path in sorted((files.home() / "zoo").glob("*/card.toml"))}


def protocol_card(kind: str, variant: str, changes: Mapping[str, Any] | None = None) -> ProtocolCard:
    """Read a protocol card.

    Args:
        kind: The kind of protocol: `knn`, `cluster`.
        variant: The variant's name, as in `protocols/<kind>@<variant>.toml`, or a path ending in `.toml`.
        changes: Values by top-level key that an option has set.

    Raises:
        UnknownNameError: If there is no such kind or variant.
        PluginError: If the kind is another package's, which does not work.
        UsageError: If a change is of something that the variant does not have.
        CardError: If the card is broken or is one of another kind, or a change does not fit it.
    """
    place = kinds.folder_of(kind)
    if variant.endswith(".toml"):
        path = find(variant, PROTOCOLS, what="protocol card")
    else:
        known = variants(kind, place=place)
        if variant not in known:
            raise UnknownNameError(f"variant of {kind}", variant, known)
        path = place / f"{known[variant]}.toml"
    content = read(path, PROTOCOLS)
    if content.get("kind") != kind:
        raise CardError(f"{path} is a card of kind {content.get('kind')!r}; {kind!r} was asked for")
    card = check(kinds.card_type(content), content, where=str(path))
    return changed(card, changes) if changes else card


def protocol_named(name: str, changes: Mapping[str, Any] | None = None) -> ProtocolCard:
    """Read a protocol card by one name.

    Args:
        name: `KIND@VARIANT`, or a path ending in `.toml`, whose card says its kind.
        changes: Values by top-level key that differ from the card's.

    Raises:
        UsageError: If the name has not that form, or a change is of something that the card does not have.
        UnknownNameError: If there is no such kind or variant.
        CardError: If the card is broken, or a change does not fit it.
    """
    if name.endswith(".toml"):
        return protocol_card(
            str(read(find(name, PROTOCOLS, what="protocol card"), PROTOCOLS).get("kind")), name, changes
        )
    kind, at, variant = name.partition("@")
    if not at:
        known = ", ".join(variants(kind, place=kinds.folder_of(kind)))
        raise UsageError(f"{name!r} does not say which variant: expected {kind}@VARIANT, of {known}")
    return protocol_card(kind, variant, changes)


def preprocessing(name: str) -> PreprocessingCard:
    """Return what a protocol card, given by one name, says of an image's preparation; a bare name is one of `knn`."""
    bare = "@" not in name and not name.endswith(".toml")
    return protocol_named(f"knn@{name}" if bare else name).preprocessing


def changed(card: ProtocolCard, changes: Mapping[str, Any]) -> ProtocolCard:
    """Change a card as options say.

    Args:
        card: The card.
        changes: Values by top-level key.

    Raises:
        UsageError: If the card has no such key.
        CardError: If a value does not fit it.
    """
    name = f"{card.kind}@{card.variant}"
    without = sorted(set(changes) - set(type(card).model_fields))
    if without:
        raise UsageError(
            f"{name} has no {', '.join(without)} to set: leave the option out, or take a --variant that has it"
        )
    content = card.model_dump(exclude_unset=True) | dict(changes)
    try:
        return type(card).model_validate(content)
    except ValidationError as error:
        raise CardError(f"{name} cannot be changed so:\n{_explain(error, type(card))}") from error


def published() -> list[PublishedCard]:
    """Read every table of published numbers."""
    paths = [folder(PUBLISHED) / f"{name}.toml" for name in names(PUBLISHED)]
    return [check(PublishedCard, read(path, PUBLISHED), where=str(path)) for path in paths]


def find(name: str, kind: str, *, what: str, others: Iterable[str] = ()) -> Path:
    """Return the path of a card given by name or by path.

    Args:
        name: The name, or a path ending in `.toml`.
        kind: The kind of card.
        what: What a card of that kind is of, for the error.
        others: Names that the error should list too.

    Raises:
        UnknownNameError: If no card has that name.
        CardError: If the path leads nowhere.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise CardError(f"there is no {what} at {path}")
        return path
    if name not in names(kind):
        raise UnknownNameError(what, name, {*names(kind), *others})
    return folder(kind) / f"{name}.toml"


def read(path: Path, kind: str) -> dict[str, Any]:
    """Read a card's content, what it extends filled in.

    What is extended is a card beside this one, or else one of ours of the same kind. A table is merged key by
    key with the one it extends; a list replaces it.

    Raises:
        CardError: If the file is not TOML, or extends something that is not there, or itself.
    """
    content: dict[str, Any] = {}
    seen: set[Path] = set()
    while True:
        if path.resolve() in seen:
            raise CardError(f"{path} extends itself")
        seen.add(path.resolve())
        try:
            own = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CardError(f"{path} is not valid TOML: {error}") from error
        except OSError as error:
            raise CardError(f"cannot read the card {path}: {error.strerror}") from error
        except RecursionError as error:
            raise CardError(
                f"{path} is not a card: its tables or lists lie too deep in one another"
            ) from error
        content = _merge(content, onto=own)
        parent = content.pop("extends", None)
        if parent is None:
            return content
        # With its suffix or without: `extends = "knn@dino.toml"` means the same card.
        parent = str(parent).removesuffix(".toml")
        places = [place / f"{parent}.toml" for place in (path.parent, folder(kind))]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            raise UnknownNameError("card to extend", parent, names(kind))


def read_json(path: Path) -> dict[str, Any]:
    """Read what a card was written to as JSON.

    Raises:
        CardError: If the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CardError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CardError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def check(card_type: type[AnyCard], content: Mapping[str, Any], *, where: str) -> AnyCard:
    """Turn content into a card.

    Raises:
        CardError: If a key is missing, unknown or of the wrong type; the message names each.
    """
    try:
        return card_type.model_validate(content)
    except ValidationError as error:
        raise CardError(f"{where} is not a valid card:\n{_explain(error, card_type)}") from error


def fingerprint(card: Card) -> str:
    """Return a hash of all the card says; the same for equal cards, however they were written."""
    return hashlib.sha256(card.model_dump_json().encode()).hexdigest()


def _merge(content: Mapping[str, Any], *, onto: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a card's content over that of the card it extends."""
    merged = dict(onto)
    for key, value in content.items():
        inherited = merged.get(key)
        if isinstance(value, dict) and isinstance(inherited, dict):
            value = _merge(value, onto=inherited)
        merged[key] = value
    return merged


def _change(content: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    table = content
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UsageError(f"cannot set {key}: {name} is a value or a list, not a table")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value


def _explain(error: ValidationError, card_type: type[Frozen]) -> str:
    lines: list[str] = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "the card"
        if problem["type"] == "extra_forbidden":
            unknown = UnknownNameError("key", place, _keys(card_type.model_json_schema()))
            lines.append(f"  {unknown}")
        else:
            came = "" if problem["type"] == "missing" else f" (got {problem['input']!r:.80})"
            lines.append(f"  {place}: {problem['msg'].removeprefix('Value error, ')}{came}")
    return "\n".join(lines)


def _keys(schema: Mapping[str, Any]) -> list[str]:
    """List every dotted key a card may have, lists' items by their number left out."""
    definitions = schema.get("$defs", {})

    def walk(node: Mapping[str, Any], prefix: str) -> list[str]:
        found: list[str] = []
        for name, child in node.get("properties", {}).items():
            found.append(prefix + name)
            reference = child.get("$ref") or child.get("allOf", [{}])[0].get("$ref", "")
            found += walk(definitions.get(reference.rpartition("/")[2], {}), f"{prefix}{name}.")
        return found

    return walk(schema, "")
