import os
from pathlib import Path

# Before torch is imported: tests run side by side, and threads that wait for a busy core wait long.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the embedded digits as class folders: 96 to train on and 40 to test on, of four classes."""
    from carp_eval.data.digits import open_split

    root = tmp_path_factory.mktemp("digits")
    for split, each in (("train", 24), ("test", 10)):
        images = open_split(split)
        for label in range(4):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number in (images.labels == label).nonzero()[0][:each].tolist():
                images.image(number).save(folder / f"{images.key(number)}.png")
    return root
