from dataclasses import replace

import pytest

from carp_eval.checkpoints.publishing import measured
from carp_eval.errors import UsageError
from tests.checkpoints.publishing import scene


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return replace(scene.model(), folder=tmp_path / "run")


def test_results_are_found_by_the_weights_in_the_run_and_beside_it(model, tmp_path):
    late = scene.saved(scene.result(model, finished="2026-11-21T12:00:00+00:00"), tmp_path / "run/results")
    early = scene.saved(scene.result(model, finished="2026-11-20T12:00:00+00:00"), tmp_path / "results")
    scene.saved(scene.result(model, weights_sha256="0" * 64, seed=1), tmp_path / "results")
    (tmp_path / "results/broken.json").write_text("{")
    (tmp_path / "results/old.json").write_text('{"schema_version": 1}')
    found = measured.of(model)
    assert found.results == (early, late)
    assert found.others == 1
    assert len(found.unreadable) == 2


def test_a_run_that_is_the_folder_one_stands_in_is_not_counted_twice(model, tmp_path):
    kept = scene.saved(scene.result(model), tmp_path / "results")
    assert measured.of(replace(model, folder=tmp_path)).results == (kept,)


def test_a_folder_that_is_named_is_the_only_one(model, tmp_path):
    scene.saved(scene.result(model), tmp_path / "results")
    kept = scene.saved(scene.result(model), tmp_path / "elsewhere")
    assert measured.of(model, tmp_path / "elsewhere").results == (kept,)
    with pytest.raises(UsageError, match="no folder of results"):
        measured.of(model, tmp_path / "none")
