import pytest


@pytest.fixture
def carp_home(tmp_path, monkeypatch):
    home = tmp_path / "carp-home"
    monkeypatch.setenv("CARP_HOME", str(home))
    monkeypatch.delenv("IMAGENET", raising=False)
    return home


@pytest.fixture
def hub_cache(tmp_path, monkeypatch, carp_home):
    """The cache of `datasets` in a folder of the test's own, and no way to the Hub."""
    import datasets

    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    # Where several files are streamed at once, the library waits five seconds at the end for Arrow's threads.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    datasets.disable_progress_bars()
    yield cache
    datasets.enable_progress_bars()
