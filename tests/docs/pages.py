"""The blocks of a document, and a shell that runs them: files, commands with what they print, Python.

A block with a title is a file of that name; ```console has commands behind `$ ` and what they print below; ```python
runs. A shown line that begins with `error:` says that the command ends with exit code 2; `...` leaves lines out.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    words: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Swap:
    """What is run instead of what a document says, where that cannot run here.

    Attributes:
        said: Regular expression, looked for in commands, in files, and in what is shown.
        run: What replaces it.
        why: Why it cannot run as it stands.
    """

    said: str
    run: str
    why: str


def blocks(document: str) -> list[Block]:
    found = _BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    return [Block(language, _title(more), text) for language, more, text in found]


def _title(more: str) -> str:
    told = re.search(r'title="([^"]+)"', more)
    return told.group(1) if told else ""


def commands(text: str) -> list[Command]:
    """Take a block of a console apart; a backslash at a line's end joins it with the next."""
    found: list[tuple[str, list[str]]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((" ".join(line[2:].split()), []))
        else:
            assert found, f"{line!r} stands before the first command"
            found[-1][1].append(line)
    return [Command(words, tuple(shown)) for words, shown in found]


def skeleton(line: str) -> str:
    """Return what of a printed line is the same on every machine: words, in order; numbers and hashes are one sign."""
    line = re.sub(r"[│┃┏┓┗┛┡┩┳┻╇┴┌┐└┘├┤┬┼─━▁▂▃▄▅▆▇█|]", " ", line)
    # Records of one second are told apart by a number.
    line = re.sub(r"(?<=\dT\d{6})-\d+", "", line)
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b", "#", line)
    line = re.sub(r"(?:[-+−<≈]\s?)?\d[\d.,:]*(?:e[-+]\d+)?(?:[TZ]#?\d*)?", "#", line)
    return " ".join(re.sub(r"(?:# ?)+", "# ", line).split())


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """Return the lines that a document shows and a command did not print."""
    real = {skeleton(line) for line in printed.splitlines()}
    absent = []
    for line in shown:
        told, cut, _ = line.partition("...")
        wanted = skeleton(told)
        if wanted and wanted not in real and not (cut and any(one.startswith(wanted) for one in real)):
            absent.append(line)
    return absent


@dataclass
class Shell:
    """Runs commands in a folder as a user's shell would; `carp` runs in this process, which need not load torch anew.

    Attributes:
        folder: Where commands run.
        environment: What is set beside this process's own.
        capsys, monkeypatch: pytest's.
        swaps: Applied to each command and file, in order.
        names: What Python blocks have defined.
    """

    folder: Path
    capsys: object
    monkeypatch: object
    swaps: tuple[Swap, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    names: dict[str, object] = field(default_factory=dict)

    def __post_init__(self):
        self.monkeypatch.chdir(self.folder)
        # No progress bars, and lines as wide as the documents'.
        told = {"CARP_HOME": str(self.folder / "home"), "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        for name, value in (told | self.environment).items():
            self.monkeypatch.setenv(name, value)

    def swapped(self, text):
        text = text.replace("/home/you/.cache/carp", os.environ["CARP_HOME"])
        for swap in self.swaps:
            text = re.sub(swap.said, swap.run, text)
        return text

    def play(self, page):
        """Run a whole document, in order."""
        for block in blocks(page):
            if block.title:
                (self.folder / block.title).write_text(self.swapped(block.text))
            elif block.language == "console":
                for command in commands(block.text):
                    self.check(command)
            elif block.language == "python":
                exec(self.swapped(block.text), self.names)

    def check(self, command):
        words = self.swapped(command.words)
        if any(line.startswith("stopped by SIGINT") for line in command.shown):
            code, printed, wanted = *self.interrupt(words, once="epoch 1:"), 130
        elif "Ctrl-C ends it" in command.shown:
            code, printed, wanted = *self.interrupt(words, once="Ctrl-C ends it"), 0
        else:
            code, printed = self.run(words)
            wanted = 2 if any(line.startswith("error:") for line in command.shown) else 0
        assert code == wanted, f"$ {words}\nended with {code}:\n{printed}"
        absent = missing(tuple(map(self.swapped, command.shown)), printed)
        assert not absent, f"$ {words}\ndid not print {absent}, but:\n{printed}"

    def run(self, words):
        """Run one command; return its exit code and all that it printed."""
        if words.startswith("export "):
            name, _, value = words.removeprefix("export ").partition("=")
            self.monkeypatch.setenv(name, value)
            return 0, ""
        if not words.startswith("carp "):
            return self.start(words)
        from carp_eval.commands.app import main  # not above: jaxtyping must see the package first

        self.monkeypatch.setattr(sys, "argv", shlex.split(words))
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        told = self.capsys.readouterr()
        return code, told.out + told.err

    def start(self, words):
        """Run a command as a process of its own."""
        done = subprocess.run(
            ["bash", "-c", words], capture_output=True, text=True, timeout=240, **_surroundings()
        )
        return done.returncode, done.stdout + done.stderr

    def interrupt(self, words, *, once):
        """Run a command as a process of its own, and press Ctrl-C once it prints a line that begins so.

        What serves a page must answer before.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(["bash", "-c", f"exec {words}"], **pipes, **_surroundings()) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith(once):
                    if said[-2:-1] and said[-2].startswith("http://127.0.0.1:"):
                        with urlopen(said[-2].strip(), timeout=60) as answer:
                            assert answer.status == 200
                    process.send_signal(signal.SIGINT)
            return process.wait(timeout=240), "".join(said)


def _surroundings():
    """Return how a process starts: with the programs beside this Python first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"env": os.environ | {"PATH": path}}
