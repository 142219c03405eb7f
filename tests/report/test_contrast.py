"""Text must be read in both themes: the ratio that WCAG 2 asks of it, from the style sheet's own colours."""

import re
from importlib.resources import files

import pytest

from carp_eval.report.parts import confusion, surfaces
from carp_eval.report.writing import SHAPES

CSS = (files("carp_eval.report") / "templates" / "report.css").read_text(encoding="utf-8")
LIGHT, DARK, PRINT = (
    dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)


def channels(colour):
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def contrast(one, other):
    """(L1 + 0.05) / (L2 + 0.05), L of linearised sRGB."""
    light = []
    for colour in (one, other):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_the_formula_is_that_of_the_guideline():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    assert contrast(channels("#767676"), [1, 1, 1]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_text_is_readable(theme):
    assert len(theme) == 19
    for ground in ("paper", "panel"):
        for text in ("ink", "muted", "link", "right", "wrong", "warning"):
            assert contrast(channels(theme[text]), channels(theme[ground])) >= 4.5, (text, ground)


@pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_numbers_on_tints_are_readable_at_the_darkest(theme):
    for tint in ("tint", "wrongtint"):
        for share in (surfaces.DARKEST, confusion.DARKEST):
            mixed = [
                share * a + (1 - share) * b
                for a, b in zip(channels(theme[tint]), channels(theme["paper"]), strict=True)
            ]
            assert contrast(channels(theme["ink"]), mixed) >= 4.5, tint


@pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
def test_lines_and_marks_stand_out(theme):
    for name in ("tint", "wrongtint", *(f"hue{number}" for number in range(8))):
        assert contrast(channels(theme[name]), channels(theme["paper"])) >= 3, name


def test_classes_of_one_colour_differ_in_shape():
    looks = {(number % 8, number % len(SHAPES)) for number in range(40)}
    assert len(looks) == 40
