import json

import pytest

from carp_eval import results
from carp_eval.checkpoints.publishing import public
from tests.checkpoints.publishing import scene


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/home/me/.venv/bin/carp eval knn -m runs/mine --k 20", "carp eval knn -m mine --k 20"),
        ("carp eval -d 'folder:/home/me/My Photos/cats'", "carp eval -d folder:cats"),
        ("carp eval --output=/home/me/out -o=/home/me/o", "carp eval --output=out -o=o"),
        ("carp eval -m hf:USER/NAME@main -d hf:ORG/SET", "carp eval -m hf:USER/NAME@main -d hf:ORG/SET"),
        ("carp eval -m hf:/home/me/w -d pets:/home/me/p", "carp eval -m hf:w -d pets:p"),
        ("carp eval -m torchvision:resnet50/V2", "carp eval -m torchvision:resnet50/V2"),
        (r"C:\Users\me\carp.exe eval -m C:\Users\me\a.pth", "carp.exe eval -m a.pth"),
    ],
)
def test_a_command_keeps_the_last_part_of_each_path(line, expected):
    assert public.command(line) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was imported from /home/me/a.pth.", "It was imported from a.pth."),
        ("~/photos/cats", "cats"),
        ("of ../me/a, ~/me/b and /me/c; x=/me/d", "of a, b and c; x=d"),
        ("https://example.org/a/b and/or 1/2, github.com/a/b", None),
    ],
)
def test_text_keeps_the_last_part_of_each_path(text, expected):
    assert public.words(text) == (expected or text)
    assert public.plain({"a": [text]}) == {"a": [expected or text]}


def test_a_record_has_no_folder_left_and_loads_again(tmp_path):
    model = scene.model(name="/home/me/secret place/net.pth")
    record = scene.result(
        model,
        dataset="folder:/home/me/My secret/cats",
        query_dataset="images:secret/dogs",
        command="/home/me/secret/carp eval -d folder:/home/me/My secret/cats",
        notes=("2 of /home/me/My secret/cats are bad",),
    )
    cleaned = public.record(record)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(cleaned.model_dump(mode="json")))
    again = results.load(path)
    assert "secret" not in path.read_text()
    assert "/home" not in path.read_text()
    assert (again.dataset, again.query_dataset, again.model) == ("folder:cats", "images:dogs", "net.pth")
    assert again.command == "carp eval -d folder:cats"
    assert again.notes == ("2 of cats are bad",)
    assert (again.scores, again.weights_sha256, again.card_sha256) == (
        record.scores,
        record.weights_sha256,
        record.card_sha256,
    )
    assert public.record(again) == again
