"""Every command and every block of Python in the documents is run, and what documents show is really printed.

A page is played in order, in a folder that has what it speaks of: pictures, a checkpoint, a trained run.
"""

import re
import shlex
import shutil

import pytest

from tests.docs.pages import DOCS, ROOT, Block, Shell, Swap, blocks, commands, missing, skeleton
from tests.recipes import TINY

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
# Its Python is run by tests/test_library.py, with what it needs.
ELSEWHERE = {"docs/library.md"}
SMALL = " ".join(f"--set {key}={value}" for key, value in TINY.items())
TRAIN = f"carp train digits -d folder:photos {SMALL}"

SWAPS = {
    "docs/guides/quickstart.md": (
        Swap(
            "make quickstart",
            f"make --directory={ROOT} --dry-run quickstart",
            "it installs, and takes minutes",
        ),
        Swap("source .venv/bin/activate", "true", "the environment that runs the tests is active already"),
        Swap("^carp train$", f"carp train {SMALL} -d folder:photos", "it takes minutes"),
        Swap("(of|on) digits", r"\1 folder:photos", "as above"),
        Swap("@dino-digits", "@dino-folder-photos", "as above"),
    ),
    "docs/guides/own-images.md": (
        Swap("--variant logreg", "--variant few.toml", "45 candidates take a minute on one core"),
    ),
    "docs/guides/own-training.md": (
        # Of the recipe's file, so that the baseline and the resumed run have them too.
        Swap(
            "epochs = 30\nbatch_size = 64", "epochs = 3\nbatch_size = 16\nknn_epochs = 1", "it takes minutes"
        ),
        Swap("count = 256", "count = 64", "half the memory is half the time"),
    ),
    "docs/guides/look.md": (
        Swap(r"pixels:my-recipe\.toml", "pixels:runs/RUN", "another guide writes that recipe"),
        Swap("-my-recipe:", "-digits:", "the run of the scene"),
        Swap("^carp report$", "carp report --points 20", "a map of all takes UMAP seconds"),
    ),
    "docs/guides/checkpoint-cards.md": (
        Swap(r"https://example\.org/my_checkpoint\.pth", "WEB/my_checkpoint.pth", "a server on this machine"),
    ),
    "docs/guides/publish.md": (
        Swap("hf auth login", "true", "the loopback Hub's token is in HF_TOKEN"),
        Swap(
            "hf-hub:USER/digits-resnet18",
            "local-dir:got",
            "timm asks the one Hub it knew when it was imported",
        ),
        Swap('"USER/digits-resnet18"', '"got"', "so does transformers"),
    ),
    "docs/guides/cluster.md": (
        Swap("--nnodes=2 --nproc_per_node=8", "--nnodes=1 --nproc_per_node=1", "there is one machine"),
        Swap(
            "node0:29400(.*)", r"127.0.0.1:0\1 --dry-run", "the training itself is that of the command above"
        ),
        Swap(
            "=8 --max-restarts=3", "=2 --max-restarts=1", "there may be two cores; a failure is told at once"
        ),
        Swap("--nproc_per_node=8", "--nproc_per_node=1", "extraction by several has tests of its own"),
        Swap("train carp-resnet50-200ep(?! --slurm)", f"{TRAIN[5:]} --workers 0", "ImageNet takes a week"),
        Swap("-carp-resnet50-200ep", "-digits", "as above"),
        Swap(
            "--slurm .*", "--slurm --dry-run", "there is no Slurm; tests/pretrain/test_slurm.py submits here"
        ),
        Swap("train carp-resnet50-200ep --slurm", "train digits --slurm", "ImageNet is not here"),
        Swap("^sbatch ", "bash -n ", "there is no Slurm; its lines are those above"),
        Swap("sweep digits (.*)", rf"sweep digits -d folder:photos {SMALL} \1", "it takes minutes"),
    ),
}


# What pages speak of that earlier ones have made.
BEFORE = {
    "docs/guides/own-images.md": ["carp zoo import my_checkpoint.pth --native-size 32"],
    "docs/guides/look.md": [
        TRAIN,
        "carp zoo import my_checkpoint.pth --native-size 32",
        *(
            f"carp eval knn --k 5 -d folder:photos -m {model}"
            for model in ("runs/RUN", "pixels:runs/RUN", "my_checkpoint")
        ),
    ],
    "docs/guides/cluster.md": [TRAIN],
    "docs/protocol-cards.md": [TRAIN],
}
CLASSES = {0: "zero", 1: "one", 7: "seven", 8: "eight"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """What the pages call `photos`: some of the embedded digits in class folders, in splits."""
    from carp_eval.data.digits import open_split

    root = tmp_path_factory.mktemp("pictures") / "photos"
    for split, each in (("train", 60), ("test", 12)):
        images = open_split(split)
        for label, name in CLASSES.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in (images.labels == label).nonzero()[0][:each].tolist():
                images.image(number).save(folder / f"{images.key(number)}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ResNet-18 in the dictionary of some training script."""
    import torch

    from tests.checkpoints import formats

    path = tmp_path_factory.mktemp("checkpoint") / "my_checkpoint.pth"
    beside = {"classifier.weight": torch.ones(10, 512), "classifier.bias": torch.ones(10)}
    torch.save({"model": formats.under("backbone.") | beside, "optimizer": {}, "epoch": 100}, path)
    return path


@pytest.fixture
def scene(tmp_path, pictures, checkpoint, capsys, monkeypatch):
    """A function that lays out what a page speaks of, and returns a shell there."""

    def lay(page):
        shutil.copytree(pictures, tmp_path / "photos")
        shutil.copy(checkpoint, tmp_path)
        (tmp_path / "few.toml").write_text('extends = "linear@logreg"\nvariant = "logreg"\nnumber = 5\n')
        shell = Shell(tmp_path, capsys, monkeypatch, SWAPS.get(page, ()))
        for command in BEFORE.get(page, ()):
            code, printed = shell.run(shell.swapped(command))
            assert code == 0, printed
            if command == TRAIN:
                (run,) = (tmp_path / "runs").iterdir()
                shell.swaps += (Swap("runs/RUN", f"runs/{run.name}", "a run has the time in its name"),)
        return shell

    return lay


@pytest.fixture
def others(request, monkeypatch, checkpoint):
    """What a page needs of the internet: a Hub, and a server of files."""
    from carp_eval.checkpoints.downloads import transfer
    from tests import hub_server
    from tests.checkpoints.http_server import Server, Shelf

    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    web = Server()
    web.shelves["/my_checkpoint.pth"] = Shelf(checkpoint.read_bytes())
    with hub_server.serving() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        here = Swap("WEB/", web.url("/"), "its port"), Swap("https://huggingface.co", hub.url, "its port")
        yield here
    web.close()


# Its processes load torch seven times.
SLOW = {"docs/guides/cluster.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if page not in ELSEWHERE
    ],
)
def test_what_a_page_shows_runs_and_prints_what_it_shows(page, scene, others):
    if not any(block.language in ("console", "python") for block in blocks(page)):
        pytest.skip("it shows nothing that runs")
    shell = scene(page)
    shell.swaps += others
    shell.play(page)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_looked_at(page):
    """A command in a block of another language would be run by nobody."""
    for block in blocks(page):
        assert block.title or block.language in ("console", "python", "text"), block
        if block.language == "text":
            assert not re.search(r"^\$ |^carp |^torchrun |^make ", block.text, flags=re.MULTILINE), block


def test_every_swap_is_of_something_that_is_said():
    for page, swaps in SWAPS.items():
        said = [part for block in blocks(page) for part in _parts(block)]
        for swap in swaps:
            rest = [said for said in said if re.search(swap.said, said)]
            assert rest, f"{page} does not say {swap.said}"


def _parts(block: Block):
    if block.language == "console":
        return [said for command in commands(block.text) for said in (command.words, *command.shown)]
    return [block.text]


INLINE = re.compile(r"`(?:\.venv/bin/)?(carp [^`]+)`")


@pytest.mark.parametrize("page", [*PAGES, "README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_commands_in_sentences_exist_with_their_options(page):
    import typer

    from carp_eval.commands.app import app

    for said in INLINE.findall((ROOT / page).read_text(encoding="utf-8")):
        words = [word for word in shlex.split(said)[1:] if word != "..."]
        command, below = typer.main.get_command(app), {}
        while (below := getattr(command, "commands", {})) and words and words[0].isidentifier():
            if words[0].isupper():
                break
            assert words[0] in below, f"{page}: {said}"
            command = below[words.pop(0)]
        # Behind a placeholder, `carp eval KIND`, an option of any of them will do.
        meant = below.values() if below and words and words[0].isupper() else [command]
        options = (one for each in meant for one in each.params)
        known = {option for one in options for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known, f"{page}: {said}: {used - known}"


def test_what_is_compared_of_a_line_are_its_words():
    assert skeleton("│ top1 (k = 5) │ 92.67 │ 89.66 to 95.67 │") == skeleton("┃ top1 (k = 20) ┃ 3 ┃ 0 to 1 ┃")
    assert skeleton("weights 1ba77dcdbd31e8a0") == skeleton("weights 77") != skeleton("weights abc")
    assert missing(("...", "wrote a.html ...", "3 images"), "wrote a.html (2 MB)\n4 images\n") == []
    assert missing(("3 images of one",), "3 images of two") == ["3 images of one"]
    assert missing(("wrote b.html ...",), "wrote a.html (2 MB)") == ["wrote b.html ..."]
    assert [one.words for one in commands("$ carp a \\\n  -b\nx\n$ carp c\n")] == ["carp a -b", "carp c"]
