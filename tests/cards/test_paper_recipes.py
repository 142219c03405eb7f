"""The numbers of recipes against a table that was written down from the papers, not from the cards."""

from collections import Counter

import pytest

from carp_eval.cards import loading

CARDS = {name: loading.recipe(name) for name in loading.names(loading.RECIPES)}

# CARP, appendix B.1 and section 6; Tables 1 and 3 to 7. Epochs, batch, K, N_B, width of the embedding.
MAIN = {f"carp-resnet50-{epochs}ep": (epochs, 1024, 65536, 512, 256) for epochs in (200, 400, 800)}
ABLATIONS = {
    "carp-resnet50-50ep": (50, 256, 65536, 512, 128),
    # Table 3
    "carp-resnet50-50ep-k1024": (50, 256, 1024, 512, 128),
    "carp-resnet50-50ep-k2048": (50, 256, 2048, 512, 128),
    "carp-resnet50-50ep-k4096": (50, 256, 4096, 512, 128),
    "carp-resnet50-50ep-k16384": (50, 256, 16384, 512, 128),
    "carp-resnet50-50ep-k262144": (50, 256, 262144, 512, 128),
    # Table 4
    "carp-resnet50-50ep-bs128": (50, 128, 65536, 512, 128),
    "carp-resnet50-50ep-bs512": (50, 512, 65536, 512, 128),
    "carp-resnet50-50ep-bs1024": (50, 1024, 65536, 512, 128),
    # Table 5, with a momentum encoder
    "carp-resnet50-50ep-nb32": (50, 256, 65536, 32, 128),
    "carp-resnet50-50ep-nb64": (50, 256, 65536, 64, 128),
    "carp-resnet50-50ep-nb128": (50, 256, 65536, 128, 128),
    "carp-resnet50-50ep-nb256": (50, 256, 65536, 256, 128),
    "carp-resnet50-50ep-nb1024": (50, 256, 65536, 1024, 128),
    "carp-resnet50-50ep-nb2048": (50, 256, 65536, 2048, 128),
    "carp-resnet50-50ep-nb4096": (50, 256, 65536, 4096, 128),
    "carp-resnet50-50ep-nb16384": (50, 256, 65536, 16384, 128),
    "carp-resnet50-50ep-nb65536": (50, 256, 65536, 65536, 128),
    # Table 5, without
    "carp-resnet50-50ep-siamese-nb32": (50, 256, 65536, 32, 128),
    "carp-resnet50-50ep-siamese-nb64": (50, 256, 65536, 64, 128),
    "carp-resnet50-50ep-siamese-nb128": (50, 256, 65536, 128, 128),
    "carp-resnet50-50ep-siamese-nb256": (50, 256, 65536, 256, 128),
    "carp-resnet50-50ep-siamese-nb512": (50, 256, 65536, 512, 128),
    "carp-resnet50-50ep-siamese-nb1024": (50, 256, 65536, 1024, 128),
    "carp-resnet50-50ep-siamese-nb2048": (50, 256, 65536, 2048, 128),
    "carp-resnet50-50ep-siamese-nb4096": (50, 256, 65536, 4096, 128),
    "carp-resnet50-50ep-siamese-nb16384": (50, 256, 65536, 16384, 128),
    "carp-resnet50-50ep-siamese-nb65536": (50, 256, 65536, 65536, 128),
    # Table 6
    "carp-resnet50-50ep-eta0": (50, 256, 65536, 512, 128),
    "carp-resnet50-50ep-eta0p5": (50, 256, 65536, 512, 128),
    "carp-resnet50-50ep-eta0p9": (50, 256, 65536, 512, 128),
    "carp-resnet50-50ep-eta0p99": (50, 256, 65536, 512, 128),
    "carp-resnet50-50ep-eta0p999": (50, 256, 65536, 512, 128),
    # Table 7
    "carp-resnet50-25ep": (25, 256, 65536, 512, 128),
    "carp-resnet50-75ep": (75, 256, 65536, 512, 128),
    "carp-resnet50-100ep": (100, 256, 65536, 512, 128),
    "carp-resnet50-25ep-constant": (25, 256, 65536, 512, 128),
    "carp-resnet50-50ep-constant": (50, 256, 65536, 512, 128),
    "carp-resnet50-75ep-constant": (75, 256, 65536, 512, 128),
    "carp-resnet50-100ep-constant": (100, 256, 65536, 512, 128),
}
ETA = {"eta0": 0.0, "eta0p5": 0.5, "eta0p9": 0.9, "eta0p99": 0.99, "eta0p999": 0.999}
# The authors' code, whose batch is left to whoever runs it: B.1's.
CODE = {
    "carp-resnet50-100ep-mc": (100, 1024, 65536, 512, 256),
    "carp-resnet50-200ep-mc": (200, 1024, 65536, 512, 256),
    "carp-resnet50-400ep-mc": (400, 1024, 65536, 512, 256),
    "carp-resnet50-200ep-code": (200, 1024, 65536, 512, 256),
    "carp-resnet50-400ep-code": (400, 1024, 65536, 512, 256),
}
# Blur's range is in pixels of a view of 224: 0.1 to 2 pixels of one of 96 are 0.2333 to 4.6667 of those.
GLOBAL, LOCAL = (0.1, 2.0), (0.2333, 4.6667)

# SwAV's supplement. Epochs, batch, K, sets, rate, last rate, warm-up, crops, width of the trunk, queue.
A1 = (4.8, 0.0048, 10.0)
SMALL_BATCH = (0.6, 0.0006, 0.0)
TWO, BEST, ABLATED, WIDE = ("2x224", "2x224 6x96", "2x160 4x96", "2x224 4x96")
SWAV = {
    "swav-resnet50-100ep": (100, 4096, 3000, 1, *A1, TWO, 1, 0),
    "swav-resnet50-400ep": (400, 4096, 3000, 1, *A1, TWO, 1, 0),
    "swav-resnet50-100ep-mc": (100, 4096, 3000, 1, *A1, BEST, 1, 0),
    "swav-resnet50-800ep-mc": (800, 4096, 3000, 1, *A1, BEST, 1, 0),
    "swav-resnet50-400ep-mc-bs256": (400, 256, 3000, 1, *SMALL_BATCH, BEST, 1, 3840),
    "swav-resnet50-100ep-mc-160px": (100, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-k300": (400, 4096, 300, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-k1000": (400, 4096, 1000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-k10000": (400, 4096, 10000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-k30000": (400, 4096, 30000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-k100000": (400, 4096, 100000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-fixed": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-hard": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-sinkhorn1": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-sinkhorn10": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50-400ep-mc-160px-sinkhorn30": (400, 4096, 3000, 1, *A1, ABLATED, 1, 0),
    "swav-resnet50w2-400ep-mc": (400, 4096, 3000, 1, *A1, WIDE, 2, 0),
    "swav-resnet50w4-400ep-mc": (400, 2560, 3000, 1, *A1, WIDE, 4, 2560),
    "swav-resnet50w5-400ep-mc": (400, 1536, 3000, 1, *A1, WIDE, 5, 1536),
    "deepcluster-v2-resnet50-400ep": (400, 4096, 3000, 3, *A1, TWO, 1, 0),
    "deepcluster-v2-resnet50-400ep-mc-160px": (400, 4096, 3000, 3, *A1, ABLATED, 1, 0),
    "deepcluster-v2-resnet50-800ep-mc": (800, 4096, 3000, 3, *A1, BEST, 1, 0),
    "sela-v2-resnet50-400ep": (400, 4096, 3000, 3, *A1, TWO, 1, 0),
    "sela-v2-resnet50-400ep-mc-160px": (400, 4096, 3000, 3, *A1, ABLATED, 1, 0),
}

# CARL, section 4.3 and appendix A.4. Epochs, batch, K, rate, last rate.
CARL = {
    "carl-resnet18-100ep-cifar10": (100, 256, 100, 0.6, 0.0006),
    "carl-resnet18-200ep-cifar10": (200, 256, 100, 0.6, 0.0006),
    "carl-resnet18-100ep-cifar100": (100, 256, 300, 0.6, 0.0006),
    "carl-resnet18-200ep-cifar100": (200, 256, 300, 0.6, 0.0006),
    "carl-resnet18-100ep-stl10": (100, 256, 300, 0.6, 0.0006),
    "carl-resnet18-200ep-stl10": (200, 256, 300, 0.6, 0.0006),
    "carl-resnet18-100ep-imagenet64": (100, 256, 3000, 0.6, 0.0006),
    "carl-resnet18-200ep-imagenet64": (200, 256, 3000, 0.6, 0.0006),
    "carl-resnet18-150ep-cifar100-bs64": (150, 64, 1000, 0.15, 0.00015),
    "carl-resnet18-150ep-cifar100-bs128": (150, 128, 1000, 0.3, 0.0003),
    "carl-resnet18-150ep-cifar100": (150, 256, 1000, 0.6, 0.0006),
    "carl-resnet18-150ep-cifar100-bs512": (150, 512, 1000, 1.2, 0.0012),
    "carl-resnet18-150ep-cifar100-bs1024": (150, 1024, 1000, 2.4, 0.0024),
}


def crops(card):
    counts = Counter()
    for view in card.views:
        counts[view.size] += view.count
    return " ".join(f"{counts[size]}x{size}" for size in sorted(counts, reverse=True))


def of(*names):
    """Return a method's recipes but those that are ours: of the digits, and of what the papers did not train."""
    return {
        name
        for name, card in CARDS.items()
        if card.method in names
        and not name.startswith(("digits", "cifar10-5k"))
        and not name.endswith("cifar10")
    }


def test_the_tables_here_miss_no_recipe_of_these_methods():
    assert of("carp") == {*MAIN, *ABLATIONS, *CODE}
    assert of("carl") <= set(CARL)
    assert of("swav", "deepcluster-v2", "sela-v2") == set(SWAV)


def sizes(card):
    """Return the numbers that tell CARP's rows apart: epochs, batch, K, N_B, width of the embedding."""
    return (
        card.schedule.epochs,
        card.schedule.batch_size,
        card.prototypes.count,
        card.partition.block_size,
        card.head.output_dim,
    )


@pytest.mark.parametrize("name", MAIN | ABLATIONS)
def test_a_recipe_of_carp_has_the_papers_numbers(name):
    card = CARDS[name]
    assert sizes(card) == (MAIN | ABLATIONS)[name]
    words = name.split("-")
    assert card.teacher.kind == ("none" if "siamese" in words else "ema")
    assert card.partition.kind == ("constant" if "constant" in words else "random")
    if words[-1] in ETA:
        assert card.teacher.momentum == card.teacher.final_momentum == ETA[words[-1]]
        assert card.teacher.schedule == "constant"
    else:
        assert (card.teacher.momentum, card.teacher.final_momentum) == (0.99, 1.0)
        assert card.teacher.schedule == "cosine"
    assert (card.head.num_layers, card.head.hidden_dim, card.head.activation) == (3, 2048, "gelu")
    assert card.head.batch_norm
    assert (card.optimiser.name, card.optimiser.lr, card.optimiser.final_lr) == ("lars", 0.6, 0.06)
    assert (card.optimiser.schedule, card.optimiser.warmup_epochs) == ("cosine", 0)
    assert card.optimiser.weight_decay == 0.000001
    assert (card.loss.convention, card.loss.entropy_weight) == ("sum", 1.0)
    assert crops(card) == "2x224"
    # BYOL's two views, which B.1 names.
    assert [view.scale for view in card.views] == [(0.08, 1.0)] * 2
    assert [(view.blur, view.solarise) for view in card.views] == [(1.0, 0.0), (0.1, 0.2)]


@pytest.mark.parametrize("name", CODE)
def test_a_recipe_of_the_authors_code_has_the_codes_numbers(name):
    card = CARDS[name]
    assert sizes(card) == CODE[name]
    assert card.optimiser.lr == 0.45 * card.schedule.batch_size / 256
    assert (card.optimiser.final_lr, card.optimiser.warmup_epochs) == (0.0048, 0)
    assert card.optimiser.weight_decay == 0.000001
    assert (card.loss.convention, card.loss.entropy_weight) == ("mean", 1.0)
    assert (card.teacher.momentum, card.teacher.final_momentum, card.teacher.schedule) == (
        0.99,
        1.0,
        "cosine",
    )
    views = [
        (view.count, view.size, view.scale, view.blur, view.blur_sigma, view.solarise, view.to_teacher)
        for view in card.views
    ]
    first, second, local = (
        (1, 224, (0.2, 1.0), 1.0, GLOBAL, 0.0, True),
        (1, 224, (0.2, 1.0), 0.1, GLOBAL, 0.2, True),
        (6, 96, (0.05, 0.2), 0.5, LOCAL, 0.0, False),
    )
    assert views == ([first, second, local] if "mc" in name.split("-") else [first, second])
    assert {(view.jitter, view.jitter_probability, view.grey, view.flip) for view in card.views} == {
        ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.5)
    }


@pytest.mark.parametrize("name", SWAV)
def test_a_recipe_of_swavs_supplement_has_its_numbers(name):
    card = CARDS[name]
    _, _, factor = card.trunk.architecture.partition("w")
    queue = card.queue.length if card.method == "swav" else 0
    optimiser = card.optimiser
    found = (
        card.schedule.epochs,
        card.schedule.batch_size,
        card.prototypes.count,
        card.prototypes.sets,
        optimiser.lr,
        optimiser.final_lr,
        optimiser.warmup_epochs,
        crops(card),
        int(factor or 1),
        queue,
    )
    assert found == SWAV[name]
    assert (optimiser.name, optimiser.schedule, optimiser.weight_decay) == ("lars", "cosine", 0.000001)
    assert (card.head.num_layers, card.head.output_dim, card.temperature) == (2, 128, 0.1)
    if card.method == "swav":
        last = name.rpartition("-")[2]
        assert card.prototypes.learned is (last != "fixed")
        assert card.prototypes.frozen_epochs == 1
        assert card.assignment.hard is (last == "hard")
        assert (card.assignment.epsilon, card.assignment.iterations) == (
            0.05,
            int(last.removeprefix("sinkhorn")) if last.startswith("sinkhorn") else 3,
        )
        if queue:
            assert card.queue.start_epoch == (15 if last == "bs256" else 0)
    for view in card.views:
        # A.6 and A.7: ablations and trainings without small crops cut their large ones as SimCLR does.
        simclr = crops(card) in (TWO, ABLATED)
        assert view.scale == ((0.05, 0.14) if view.size == 96 else (0.08 if simclr else 0.14, 1.0))
        assert view.to_teacher is (view.size != 96)
        # A.2: blurred as SimCLR does, by 0.1 to 2 pixels of the crop, of whatever size.
        assert [sigma * view.size / 224 for sigma in view.blur_sigma] == pytest.approx([0.1, 2.0], rel=1e-3)


@pytest.mark.parametrize("name", CARL)
def test_a_recipe_of_carl_has_the_papers_numbers(name):
    card = CARDS[name]
    found = (
        card.schedule.epochs,
        card.schedule.batch_size,
        card.prototypes.count,
        card.optimiser.lr,
        card.optimiser.final_lr,
    )
    assert found == CARL[name]
    assert (card.optimiser.name, card.optimiser.weight_decay) == ("lars", 5e-4)
    assert (card.head.num_layers, card.head.hidden_dim, card.head.output_dim) == (2, 512, 128)
    assert card.trunk.stem == "imagenet"
    assert card.loss.decay_epochs == 100


def setting(card):
    """Say a recipe's setting in the words of the published tables."""
    return {
        "prototypes": card.prototypes.count,
        "batch_size": card.schedule.batch_size,
        "block_size": card.partition.block_size,
        "teacher": card.teacher.kind,
        "momentum": card.teacher.momentum,
        "final_momentum": card.teacher.final_momentum,
        "schedule": card.teacher.schedule,
        "partition": card.partition.kind,
        "epochs": card.schedule.epochs,
    }


def published_rows():
    tables = {f"Table {number}" for number in range(3, 8)}
    for table in loading.published():
        if table.document == "carp-paper" and table.table in tables:
            for row in table.rows:
                yield table.table, row


def test_every_row_of_carps_ablations_is_one_recipe_that_expects_its_number():
    rows = list(published_rows())
    # Tables 3 to 7, where the setting of section 6 is a row of each: 6 + 4 + 20 + 6 + 8.
    assert len(rows) == 44
    base = setting(CARDS["carp-resnet50-50ep"])
    for table, row in rows:
        told = dict(row.settings)
        if "momentum" in told and "final_momentum" not in told:
            told |= {"final_momentum": told["momentum"], "schedule": "constant"}
        (name,) = [name for name in ABLATIONS if setting(CARDS[name]) == base | told]
        if name == "carp-resnet50-50ep":
            continue
        assert f"top-1 {row.values['knn']:.2f}".rstrip("0") in CARDS[name].expect.score
        assert CARDS[name].expect.score.endswith(f"the paper's {table}, not measured here")
