import sys

import pytest


@pytest.fixture
def carp_in(monkeypatch, capsys):
    """Run `carp` in this process as a shell would, from a folder that is its home too."""

    def at(home):
        monkeypatch.chdir(home)
        monkeypatch.setenv("CARP_HOME", str(home / "home"))
        monkeypatch.setenv("COLUMNS", "200")
        return run

    def run(*arguments):
        from carp_eval.commands.app import main  # not above: jaxtyping must see the package first

        monkeypatch.setattr(sys, "argv", ["carp", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    return at
