"""The online k-NN: how good the features are while they are being learnt."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.data.images import Images
from carp_eval.data.loading import batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.evaluation import knn
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.in_memory import search
from carp_eval.metrics import label_free
from carp_eval.models.network import Network
from carp_eval.pretrain.method import Method

NEIGHBOURS = 20
TEMPERATURE = 0.07
MOST_IMAGES = 10_000
BATCH_SIZE = 256


@dataclass(frozen=True)
class Monitor:
    """Watches a training through a weighted 20-NN vote on part of the data.

    Attributes:
        bank: Labelled images that vote; 10,000 at most, evenly taken.
        queries: Images to classify; likewise.
        preprocessing: How images become input.
        device: Where the networks are.
        num_workers: Processes that load images; None is from the cores.
    """

    bank: Images
    queries: Images
    preprocessing: Preprocessing
    device: torch.device
    num_workers: int | None = None

    @torch.inference_mode()
    def look(self, method: Method, *, stopped: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Score student and teacher, and read the signs of collapse.

        Args:
            method: What is being trained.
            stopped: Asked before each batch whether to leave it.

        Returns:
            `knn_student` and `knn_teacher`: top-1 in percent, in evaluation mode. `effective_rank` of the
            bank's features, and the method's own signs on its images: of the teacher, or of the student where there
            is no teacher. Nothing if it was stopped.
        """
        found: dict[str, float] = {}
        for name, network in (("student", method.student), ("teacher", method.teacher)):
            if network is not None:
                found |= self._score(name, network, method, stopped)
        return {} if stopped() else found

    def describe(self, found: dict[str, float], *, epoch: int, method: Method) -> str:
        """Say in a line what was seen."""
        own = "".join(f", {words} {found[name]:.0%}" for name, words in method.sign_names.items())
        scores = ", ".join(
            f"{name} {found[f'knn_{name}']:.1f} %"
            for name in ("student", "teacher")
            if f"knn_{name}" in found
        )
        return f"epoch {epoch}: {NEIGHBOURS}-NN {scores}; effective rank {found['effective_rank']:.0f}{own}"

    def _score(
        self, name: str, network: Network, method: Method, stopped: Callable[[], bool]
    ) -> dict[str, float]:
        was_training = network.training
        network.eval()
        try:
            bank, bank_labels = self._features(network, self.bank, stopped)
            queries, query_labels = self._features(network, self.queries, stopped)
            if stopped():
                return {}
            embeddings = torch.cat(
                [network.head(part.to(self.device)).cpu() for part in bank.split(BATCH_SIZE)]
            )
        finally:
            network.train(was_training)
        near = search(unit_rows([bank]), unit_rows([queries]), k=min(NEIGHBOURS, len(bank)))
        votes = knn.vote(
            near.similarities,
            bank_labels[near.indices],
            num_classes=len(self.bank.class_names),
            temperature=TEMPERATURE,
        )
        return {
            f"knn_{name}": (votes.argmax(dim=1) == query_labels).float().mean().item() * 100,
            "effective_rank": label_free.rank_me(bank, epsilon=0.0),
            **method.signs(network, embeddings),
        }

    def _features(
        self, network: Network, images: Images, stopped: Callable[[], bool]
    ) -> tuple[Float[Tensor, "image dim"], Tensor]:
        every = -(-len(images) // MOST_IMAGES)
        chosen = range(0, len(images), every)
        loaded = batches(
            images, self.preprocessing, batch_size=BATCH_SIZE, indices=chosen, num_workers=self.num_workers
        )
        features = [
            network.trunk(batch.images.to(self.device)).cpu()
            for batch in takewhile(lambda _: not stopped(), loaded)
        ]
        return torch.cat(features or [torch.empty(0, 0)]), torch.from_numpy(images.labels[list(chosen)])
