import re
from pathlib import Path

from carp_eval.cards import kinds, loading, shelf
from carp_eval.cards.protocol import PreprocessingCard

ROOT = Path(__file__).parents[1]


def test_the_card_of_the_guide_is_one(tmp_path):
    guide = (ROOT / "docs" / "protocol-cards.md").read_text()
    (written,) = re.findall(r"```toml[^\n]*\n(.*?)```", guide, flags=re.DOTALL)
    (name,) = re.findall(r"carp eval knn --variant (\S+)", guide)[:1]
    (tmp_path / name).write_text(written)
    card = loading.protocol_card("knn", str(tmp_path / name))
    assert card.variant == "softer"
    assert card.model_dump()["k"] == (20, 50)
    assert card.preprocessing == loading.protocol_card("knn", "dino").preprocessing
    for key in PreprocessingCard.model_fields:
        assert f"| `{key}` |" in guide


def test_the_readme_names_every_protocol():
    readme = (ROOT / "README.md").read_text()
    told = {
        kind for row in re.findall(r"^\| (`.*?) \|", readme, flags=re.MULTILINE) for kind in row.split("`")
    }
    assert set(kinds.KINDS) <= told
    suites = re.search(r"^\| `suite` .*$", readme, flags=re.MULTILINE)
    assert suites is not None
    assert all(name in suites.group() for name in shelf.names("protocols/suites"))
