"""Where the cards that come with the package lie; nothing here takes time to import."""

from importlib.resources import files
from pathlib import Path

ZOO = "zoo"
RECIPES = "zoo/recipes"
PUBLISHED = "zoo/published"
PROTOCOLS = "protocols"


def folder(kind: str) -> Path:
    """Return the folder that holds one kind of card: in the wheel, or beside the package in a checkout."""
    package = Path(str(files("carp_eval")))
    shipped = package / "_cards"
    return (shipped if shipped.is_dir() else package.parent) / kind


def names(kind: str) -> list[str]:
    """List the cards of one kind, by name."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def variants(protocol: str, *, place: Path | None = None) -> dict[str, str]:
    """Return the names of a protocol's cards, by variant.

    Args:
        protocol: The kind of protocol.
        place: Folder of its cards; None is that of ours.
    """
    cards = sorted(path.stem for path in (place or folder(PROTOCOLS)).glob(f"{protocol}@*.toml"))
    return {name.partition("@")[2]: name for name in cards}
