import re

import pytest
import yaml
from huggingface_hub import ModelCard

from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.publishing import folder, markdown, model_index
from carp_eval.results import Score
from tests.checkpoints.publishing import scene

FEW = {"head": False, "bank": None, "results": [], "pictures": [], "licence": "mit"}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Publish a model with some results, and return its card as the Hub's own library reads it."""
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))

    def publish(model, *records, **changes):
        pairs = [scene.saved(record, tmp_path / f"results{number}") for number, record in enumerate(records)]
        folder.prepare(
            model, tmp_path / "out", **{"name": "user/a-model"} | FEW | {"results": pairs} | changes
        )
        return ModelCard.load(tmp_path / "out/README.md")

    return publish


def rows(card, heading):
    """Return the cells of the table below a heading."""
    below = card.text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_every_result_and_its_variant_is_in_the_model_index(published):
    model = scene.model()
    other = scene.result(
        model,
        protocol="cluster",
        variant="carp",
        scores=(Score(metric="nmi", value=55.5),),
        query_split="validation",
    )
    card = published(model, scene.result(model), other)
    found = {result.metric_name: result for result in card.data.eval_results}
    assert card.data.model_name == "a-model"
    assert set(found) == {"knn@dino: top1 (k = 20)", "knn@dino: top5 (k = 20)", "cluster@carp: nmi"}
    top1 = found["knn@dino: top1 (k = 20)"]
    assert (top1.metric_type, top1.metric_value, top1.metric_config) == ("accuracy", 66.4, "knn@dino")
    assert (top1.dataset_type, top1.dataset_name, top1.dataset_split) == (
        "uoft-cs/cifar10",
        "cifar10",
        "test",
    )
    assert top1.metric_args == {"k": 20}
    assert top1.task_type == "image-classification"
    nmi = found["cluster@carp: nmi"]
    assert (nmi.task_type, nmi.dataset_split, nmi.metric_value) == (
        "image-feature-extraction",
        "validation",
        55.5,
    )


def test_the_metadata_says_what_the_hub_sorts_by(published, tmp_path):
    published(scene.model(card=scene.card(), dataset="cifar10"), licence="CC-BY-NC-4.0")
    text = (tmp_path / "out/README.md").read_text()
    told = yaml.safe_load(text.split("---\n")[1])
    assert told == {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "license": "cc-by-nc-4.0",
        "datasets": ["uoft-cs/cifar10"],
        "tags": ["image-feature-extraction", "self-supervised-learning", "carp-eval", "resnet18", "swav"],
    }


def test_measured_stands_beside_published(published):
    model = scene.model()
    top1, top5 = rows(published(model, scene.result(model)), "Results")
    assert top1 == [
        "`knn@dino`",
        "cifar10 (test)",
        "top1 (k = 20)",
        "66.40",
        "66.00 to 66.80",
        "66.1 (carp-paper, Table 1)<br>67.6 (page, T; variant not told)<br>60.0 (poster, T; instdisc)",
        "+0.30<br>-1.20<br>+6.40",
    ]
    assert top5[3:] == ["90.12", "", "", ""]


def test_what_produced_a_number_is_told(published):
    model = scene.model()
    record = scene.result(model, notes=("the best epoch was chosen on *test*",))
    said = published(model, record).text.partition("## What produced each number")[2]
    assert "seed 5, on cpu, 12 s; torch 9.9 at abc" in said
    assert f"weights `{model.weights_sha256[:16]}`, protocol card `cccccccccccccccc`" in said
    assert r"note: the best epoch was chosen on \*test\*" in said
    path = re.search(r"\]\((results/[^)]+)\)", said)[1]
    assert path.startswith("results/knn@dino-cifar10-")


def test_only_the_ways_that_work_are_told(published):
    text = published(scene.model()).text
    assert 'timm.create_model("hf-hub:user/a-model", pretrained=True)' in text
    assert 'AutoModel.from_pretrained("user/a-model")' in text
    assert "-m hf:user/a-model" in text


def test_of_a_network_of_ours_neither_timm_nor_transformers_is_told(published, tmp_path):
    card = published(open_model(str(scene.run(tmp_path / "run"))))
    assert "create_model" not in card.text
    assert "from_pretrained" not in card.text
    assert "only carp-eval loads it" in card.text
    assert card.data.library_name == "carp-eval"


def test_the_python_of_a_card_runs(published, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    from PIL import Image

    model = scene.model()
    code = re.findall(r"```python\n(.*?)```", published(model).text, flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 50), (200, 10, 10)).save("photo.jpg")
    real = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda _, **options: real(f"local-dir:{tmp_path / 'out'}", **options)
    )
    names = {}
    exec(code, names)
    assert names["features"].shape == (1, 512)


def test_how_it_was_trained_is_told_of_a_run_and_of_a_card(published, tmp_path):
    run = published(open_model(str(scene.run(tmp_path / "run"))))
    settings = dict(rows(run, "Training"))
    assert "count 32" in settings["prototypes"]
    assert r"batch\_size 16" in settings["schedule"]
    assert r"on a \| b" in run.text
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    released = published(scene.model(card=scene.card()), licence="CC-BY-NC-4.0")
    settings = dict(rows(released, "Training"))
    assert settings["epochs"] == "800"
    assert settings["weights from"] == "`https://example.org/swav.pth`"
    assert "[The authors' page](https://example.org/page)" in released.text
    assert r"CC-BY-NC-4.0. not for \*sale\*" in released.text


def test_names_of_others_are_shown_as_they_are(published):
    evil = "x|y <script>alert(1)</script> [a](http://b) `c` *d* \n# e"
    model = scene.model()
    record = scene.result(
        model,
        dataset="cifar10",
        notes=(evil,),
        scores=(Score(metric="top1", value=1.0, settings={"name": evil}),),
    )
    card = published(model, record)
    assert "<script" not in card.text
    assert "](http://b)" not in card.text.replace(r"\]", "")
    assert "\n# e" not in card.text
    assert len(rows(card, "Results")[0]) == 7
    assert (
        evil.replace("\n", " ").split()
        == card.data.eval_results[0].metric_name.split("name = ")[1][:-1].split()
    )


def test_where_ones_own_images_lie_is_not_told(published):
    model = scene.model(dataset="folder:/home/somebody/photos")
    record = scene.result(
        model, dataset="folder:/home/somebody/photos", query_dataset="cifar10:/home/somebody/c10"
    )
    card = published(model, record)
    assert "somebody" not in str(card)
    assert "cifar10, learnt from folder:photos (test)" in card.text
    assert card.data.datasets is None


def test_plots_are_shown(published, tmp_path):
    (tmp_path / "scores.png").write_bytes(b"")
    card = published(scene.model(), pictures=[tmp_path / "scores.png"])
    assert "![scores](pictures/scores.png)" in card.text


def test_without_results_the_card_says_so(published):
    card = published(scene.model(), licence="")
    assert card.data.eval_results is None
    assert "Nothing was measured" in card.text
    assert card.data.license == "unknown"
    assert "Unknown: nobody told" in card.text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", ("apache-2.0", None)),
        ("CC-BY-NC-4.0", ("cc-by-nc-4.0", None)),
        ("My Own Licence", ("other", "my-own-licence")),
        ("", ("unknown", None)),
    ],
)
def test_licences_are_called_as_the_hub_calls_them(licence, expected):
    assert model_index.licences(licence) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("1. x", r"1\. x"),
        ("- x", r"\- x"),
        ("0.1.0 and 2026-11", "0.1.0 and 2026-11"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("a\n\n# b", r"a \# b"),
    ],
)
def test_text_is_escaped(text, expected):
    assert markdown.escape(text) == expected


def test_code_and_links_stay_what_they_are():
    assert markdown.code("a`b") == "``a`b``"
    assert markdown.code("a|b") == r"`a\|b`"
    assert markdown.link("page", "https://a.org/b?c=d") == "[page](https://a.org/b?c=d)"
    assert markdown.link("page", "javascript:alert(1)") == "page (javascript:alert(1))"
