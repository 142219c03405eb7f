"""A tiny copy in the layout of Revisited Oxford, whose rankings are plain to see: each image is one bright colour."""

import colorsys
import json
from pathlib import Path

from PIL import Image

SIDE = 32
# Hues in degrees; the database's numbers are their places here.
DATABASE = {
    "red": 10,
    "rust": 20,
    "amber": 40,
    "lime": 90,
    "green": 130,
    "teal": 170,
    "blue": 230,
    "violet": 280,
}
QUERIES = {"crimson": 0, "grass": 120}
# Crimson's nearest are red, rust, amber, violet, lime; grass's green, lime, teal, and teal first if it is not cropped.
GND = [
    {"bbx": [0, 0, 32, 32], "easy": [2], "hard": [7], "junk": [0]},
    {"bbx": [0.4, 0, 15.6, 32], "easy": [4], "hard": [], "junk": []},
]


def colour(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, 1, 1)
    return round(red * 255), round(green * 255), round(blue * 255)


def make(root: Path) -> str:
    """Write the images and their ground truth, and return how the data set is spelled."""
    jpg = root / "landmarks" / "jpg"
    jpg.mkdir(parents=True)
    for name, hue in (DATABASE | QUERIES).items():
        image = Image.new("RGB", (SIDE, SIDE), colour(hue))
        if name == "grass":
            # Outside its box it is blue.
            image.paste(colour(230), (SIDE // 2, 0, SIDE, SIDE))
        image.save(jpg / f"{name}.jpg", quality=100, subsampling=0)
    truth = {"imlist": list(DATABASE), "qimlist": list(QUERIES), "gnd": GND}
    (root / "landmarks" / "gnd_landmarks.json").write_text(json.dumps(truth))
    return f"landmarks:{root / 'landmarks'}"
