import time

import pytest
import typer

from carp_eval.commands import progress


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bars() as bars:
        tell = bars("counting [sheep]")
        tell(1, 2000)
        tell(2000, 2000)
    told = capsys.readouterr().err
    assert "counting [sheep]: 1 of 2,000" in told
    assert "counting [sheep]: 2,000 of 2,000" in told


def test_lines_do_not_come_faster_than_that(capsys):
    with progress.bars() as bars:
        for number in range(100):
            bars("counting")(number, 100)
    assert "counting: " not in capsys.readouterr().err


def test_processes_after_the_first_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bars() as bars:
        bars("counting")(1, 2)
    assert "counting" not in capsys.readouterr().err


def test_ctrl_c_ends_with_130(capsys):
    with pytest.raises(typer.Exit) as caught, progress.bars():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_bytes_are_told_as_people_count_them(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bars(in_bytes=True) as bars:
        tell = bars("fetching")
        tell(1_500_000, 94_000_000)
        bars("of untold length")(3_000, 0)
    told = capsys.readouterr().err
    assert "fetching: 1.5 MB of 94.0 MB" in told
    assert "of untold length: 3.0 kB" in told


def test_what_was_there_before_is_not_counted_for_the_rate(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress.bars(in_bytes=True) as bars:
        tell = bars("fetching")
        for more in range(4):
            tell(900_000_000 + 1000 * more, 1_000_000_000)
            time.sleep(0.05)
    told = capsys.readouterr().err
    assert "kB/s" in told
    assert "B/s" not in told.replace("kB/s", "")
