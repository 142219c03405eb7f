import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def serve() -> Iterator[Any]:
    """Serve sides on a free port, in a thread, and return the address."""
    from carp_eval.report.explorer import serving
    from carp_eval.report.explorer.routes import Explorer

    started: list[tuple[Any, threading.Thread]] = []

    def served(sides: Any, *, token: str | None = None, host: str = "127.0.0.1") -> str:
        listening = serving.listen("127.0.0.1", 0)
        server = serving.server(Explorer(sides).app(token=token, host=host))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        started.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield served
    for server, thread in started:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "a server does not end"


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, digit_folder: Any) -> Any:
    """Banks of the digits to train on: of raw pixels, and of a run with fresh weights and prototypes."""
    from carp_eval.cards import loading
    from carp_eval.checkpoints import runs, training
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.data import opening
    from carp_eval.data.preprocessing import for_model
    from carp_eval.features.extraction.running import extract
    from carp_eval.models import network
    from carp_eval.report.explorer.choosing import Chosen
    from tests.recipes import tiny

    home = tmp_path_factory.mktemp("explorer")
    images = opening.open_images(f"folder:{digit_folder}", "train")
    recipe, run = tiny(), home / "run"
    (run / "checkpoints").mkdir(parents=True)
    states = [network.build(recipe, seed=seed).state_dict() for seed in (1, 2)]
    training.save(
        run / runs.LAST,
        training.TrainingCheckpoint(
            recipe=recipe, step=1, world_size=1, student=states[0], teacher=states[1], optimiser={}
        ),
    )
    found = []
    for spelled in ("pixels:digits", str(run)):
        model = open_model(spelled)
        preprocessing = for_model(loading.preprocessing("knn@dino"), model.input)
        bank = extract(model, images, preprocessing, num_workers=0, bank_home=home / "banks")
        found.append(Chosen(bank, model))
    return found


@pytest.fixture(scope="module")
def sides(chosen: Any, digit_folder: Any) -> Any:
    """Both, with their images."""
    from carp_eval.data import opening
    from carp_eval.report.explorer.exhibit import Exhibit
    from carp_eval.report.explorer.side import Side

    images = opening.open_images(f"folder:{digit_folder}", "train")
    home = chosen[0].bank.path.parent
    return [Side(each, Exhibit(each.bank, images), device="cpu", home=home) for each in chosen]


@pytest.fixture(scope="module")
def address(serve: Any, sides: Any) -> str:
    """The explorer of both."""
    return serve(sides)
