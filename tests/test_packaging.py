"""What pyproject.toml, the pins and the wheel must agree on."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + [
        r for extra in project["optional-dependencies"].values() for r in extra
    ]
    found = {}
    for requirement in listed:
        if requirement.startswith(project["name"]):
            continue  # extras that one extra takes in
        name, bound = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement).groups()
        found[name.lower().replace("_", "-")] = tuple(map(int, bound.split(".")))
    return found


def pins(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.partition("==")[::2] for line in lines]
    assert all(version for _, version in pairs)
    return {
        name.lower().replace("_", "-"): tuple(map(int, version.split(".")[:3])) for name, version in pairs
    }


def test_every_requirement_has_a_lower_bound_and_a_pin_at_or_above_it():
    pinned = pins("constraints.txt")
    for name, bound in requirements().items():
        if name == "faiss-cpu":
            continue  # of the two that own the module, CI's platform has the other
        assert pinned[name] >= bound, name


def test_the_lowest_pins_are_the_lower_bounds():
    bounds = requirements()
    for name, version in pins("constraints-lowest.txt").items():
        if name == "pydantic-core":
            continue  # pydantic asks for exactly one
        bound = bounds[name]
        assert version == bound + (0,) * (3 - len(bound)), name


def test_nothing_names_a_registry():
    for name in ("constraints.txt", "constraints-lowest.txt", "pyproject.toml", "Makefile"):
        assert "://" not in re.sub(r"https://docs\S*", "", (ROOT / name).read_text()), name


def test_the_wheel_ships_the_package_and_its_cards_and_nothing_else(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed here")
    assert hatchling
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"carp_eval"}
    assert "carp_eval/py.typed" in names
    for kind in ("zoo/recipes", "zoo/published", "protocols"):
        ours = {f"carp_eval/_cards/{kind}/{path.name}" for path in (ROOT / kind).glob("*.toml")}
        assert ours
        assert ours <= set(names)
    # Wherever they stand: what pages are made of is no Python, and would be missed by nobody but users.
    templates = [
        path
        for folder in (ROOT / "carp_eval").rglob("templates")
        for path in folder.rglob("*")
        if path.suffix in (".j2", ".css", ".js")
    ]
    assert {"page.html.j2", "report.css", "report.js", "sorting.js"} <= {path.name for path in templates}
    assert {path.relative_to(ROOT).as_posix() for path in templates} <= set(names)
