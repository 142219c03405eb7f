import json

import pytest
import torch
from typer.testing import CliRunner

from carp_eval.cards import loading, shelf
from carp_eval.checkpoints.zoo import storing
from carp_eval.commands.app import app
from carp_eval.errors import UnknownNameError

NAMES = shelf.names(shelf.ZOO)


@pytest.fixture
def carp(monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    # Read once: a test that asks for every model would read all tables anew each time.
    published = loading.published()
    monkeypatch.setattr(loading, "published", lambda: published)

    def run(*arguments):
        result = CliRunner().invoke(app, ["zoo", *arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return run


def lines_of(shown):
    return {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}


def test_the_list_fits_80_columns_and_has_every_name_whole(carp):
    shown = carp("list")
    assert all(len(line) <= 80 for line in shown.splitlines())
    lines = lines_of(shown)
    assert set(NAMES) <= lines.keys()
    # The weights' own page has the higher numbers at 400 epochs, the paper at 200.
    assert lines["carp-resnet50-400ep"][-2:] == ["73.0", "67.6"]
    assert lines["carp-resnet50-200ep"][-2:] == ["71.7", "64.8"]
    assert lines["swav-resnet50w5-400ep-mc"][1:] == ["CC-BY-NC-4.0", "yes", "78.5"]
    assert lines["vicreg-resnet50-1000ep"][1:] == ["MIT", "yes"]


def test_a_wide_list_has_methods_and_epochs_too(carp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = lines_of(carp("list"))
    assert lines["moco-v2-resnet50-800ep"][1:] == ["MoCo", "v2", "800", "MIT", "yes", "71.1", "60.7"]


def test_the_list_as_json_has_where_its_numbers_stand(carp):
    rows = {row["name"]: row for row in json.loads(carp("list", "--json"))}
    assert rows.keys() == set(NAMES)
    swav = rows["swav-resnet50-400ep"]
    assert (swav["method"], swav["epochs"], swav["licence"]) == ("SwAV", 400, "CC-BY-NC-4.0")
    assert swav["publishable"] is True
    assert swav["pulled"] is False
    knn = swav["knn"]
    assert (knn["value"], knn["document"], knn["table"]) == (61.3, "carp-paper", "Table 1")
    # The paper's authors computed it themselves from the released weights.
    assert knn["taken_from"] == ""
    assert swav["linear"]["taken_from"] == "Caron et al., 2020"
    assert rows["mira-resnet50-800ep"]["linear"] is None


def test_the_list_is_of_a_method_if_one_is_named(carp):
    rows = json.loads(carp("list", "--json", "--method", "moco"))
    assert {row["method"] for row in rows} == {"MoCo v2", "MoCo v3"}
    assert len(rows) == 5
    result = CliRunner().invoke(app, ["zoo", "list", "--method", "SwaF"])
    assert isinstance(result.exception, UnknownNameError)
    assert "Did you mean SwAV" in str(result.exception)


def test_show_tells_of_every_model_all_that_was_published(carp):
    told = 0
    for name in NAMES:
        record = json.loads(carp("show", name, "--json"))
        card = loading.checkpoint_card(name)
        assert record["summary"] == card.summary
        assert record["weights"]["sources"] == list(card.weights.sources)
        names = {name, *card.published_as}
        expected = [
            (row.model, table.document, table.table, value)
            for table in loading.published()
            for row in table.rows
            if row.model in names
            for value in row.values.values()
        ]
        shown = [(row["model"], row["document"], row["table"], row["value"]) for row in record["published"]]
        assert sorted(shown) == sorted(expected)
        told += bool(shown)
    assert told > 25


def test_show_tells_where_a_file_is_and_what_to_do_with_it(carp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shown = " ".join(carp("show", "simclr-resnet50-1000ep").replace("│", " ").split())
    assert "hf:lightly-ai/simclrv1-imagenet1k-resnet50-1x/resnet50-1x.pth" in shown
    assert "224 pixels, values in [0, 1]" in shown
    assert "by hand Fetch ResNet50_1x.zip" in shown
    assert "no; carp pull simclr-resnet50-1000ep" in shown
    assert "single: under state_dict; leaving out fc.*" in shown
    assert "69.3 carp-paper Table 1" in shown
    assert "no table has numbers of it" in carp("show", "simsiam-resnet50-100ep")
    shown = " ".join(carp("show", "carp-resnet50-400ep-mc").replace("│", " ").split())
    assert "none told. The authors name no licence" in shown
    assert "may be published again no" in shown
    assert "mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225" in shown


def test_a_card_of_ones_own_is_shown_by_its_path(carp, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('version = 1\nextends = "swav-resnet50-800ep-mc"\nsummary = "mine"\nepochs = 3\n')
    record = json.loads(carp("show", str(own), "--json"))
    assert (record["summary"], record["method"], record["pulled"]) == ("mine", "SwAV", None)


@pytest.mark.parametrize("name", ["carp-resnet50-400-mc", "carp-resnet50-400ep-mcc"])
def test_a_misspelt_name_is_an_error_that_says_what_is_near(carp, name):
    result = CliRunner().invoke(app, ["zoo", "show", name])
    assert isinstance(result.exception, UnknownNameError)
    assert "Did you mean carp-resnet50-400ep-mc" in str(result.exception)


def test_a_model_that_is_here_is_told_so(carp, tmp_path):
    assert "none of them is on this machine" in carp("list", "--pulled")
    assert json.loads(carp("list", "--pulled", "--json")) == []
    file = tmp_path / "mine.pth"
    write_trunk(file)
    card = tmp_path / "card.toml"
    card.write_text(
        'version = 1\nsummary = "small"\nmethod = "mine"\narchitecture = "resnet18"\nfeature_dim = 512\n'
        'published_as = ["carp-resnet50-200ep"]\n'
        '[weights]\nby_hand = "none"\n[weights.branches.single]\n'
    )
    added = storing.add("mine-resnet18-1ep", loading.checkpoint_card(str(card)), file, source="a folder")
    (row,) = json.loads(carp("list", "--pulled", "--json"))
    assert (row["name"], row["pulled"], row["architecture"]) == ("mine-resnet18-1ep", True, "resnet18")
    # It is listed with the numbers of what it says it is.
    line = lines_of(carp("list", "--pulled"))["mine-resnet18-1ep"]
    assert line[1:] == ["none", "told", "no", "yes", "71.7", "64.8"]
    here = json.loads(carp("show", "mine-resnet18-1ep", "--json"))["pulled"]
    assert here["source"] == "a folder"
    assert here["file_sha256"] == added.origin.file_sha256
    assert here["folder"] == str(added.folder)
    assert "from a folder" in carp("show", "mine-resnet18-1ep")


def write_trunk(file):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18()
    # As training leaves it: statistics that are no longer those of the start.
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    torch.save({name: value for name, value in network.state_dict().items() if "fc." not in name}, file)


def test_an_address_is_shown_whole_on_a_narrow_terminal(carp):
    cells = [
        line.split("│")[2].strip()
        for line in carp("show", "swav-resnet50-800ep-mc").splitlines()
        if "│" in line
    ]
    (source,) = loading.checkpoint_card("swav-resnet50-800ep-mc").weights.sources
    assert source in "".join(cells)
