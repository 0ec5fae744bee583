"""k-NN as a system: the answers that people gave where something alike was said (JDDC 2.1, 4.1).

The nearest contexts of training, by a mean-pooled encoder, lend their responses; so do those with
the nearest photos; TransResNet then chooses among them. Nothing is learned here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax import storage
from mmjax.artifacts import artifact_folder, parent
from mmjax.asked_network import AskedNetwork, open_run, open_weights_of
from mmjax.baselines.knn_encoder import PretrainedEncoderTask
from mmjax.baselines.knn_options import KnnOptions
from mmjax.baselines.unlearned import UnlearnedSystem
from mmjax.data.loader import check_divides
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.evaluators_generation import judged_texts
from mmjax.options import LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.scores import DOT_PRODUCT, SQUARED_DISTANCE
from mmjax.parallel.topk import top_k
from mmjax.tasks.response_ranking import RankingExamples, RankingOptions
from mmjax.workdir import WorkDir

RANKING = "response_ranking"  # the task of TransResNet


class Candidates(NamedTuple):
    """Numbers of training examples [N, K], -1 where there is none, and their scores; best first."""

    example: np.ndarray
    score: np.ndarray


class KnnSystem(UnlearnedSystem):
    """See `mmjax.systems.System` for the members."""

    nothing_to_choose = "k-NN has nothing to choose"
    reads_train = True

    def __init__(self, config: Mapping[str, Any]):
        sections = {
            "loader": LoaderOptions,
            "mesh": MeshOptions,
            "task": RankingOptions,
            "knn": KnnOptions,
        }
        super().__init__(config, sections)
        self._mesh = make_mesh(self._options["mesh"])
        check_divides(self._mesh, self._options["eval"].batch_size)
        knn = self._options["knn"]
        if not knn.encoder:
            raise UserError(
                "config.knn.encoder names nothing to compare what was said with: give a Hugging "
                "Face folder or hub id such as google-bert/bert-base-chinese, or run://DIR of a "
                "TransResNet."
            )
        if self._by_photo and knn.image_weights is None:
            raise UserError(
                "config.task.images=True needs config.knn.image_weights, a Hugging Face folder or "
                "hub id such as microsoft/resnet-18; or set config.knn.image_top=0."
            )

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        with self._on_mesh():
            data = self._split(split)
            found = self._candidates(data)
        texts = self._responses()
        answers = []
        for number, name in enumerate(data.ids()):
            pairs = zip(found.example[number].tolist(), found.score[number].tolist(), strict=True)
            best: dict[str, float] = {}
            for example, score in pairs:
                if example >= 0:
                    best.setdefault(texts[example], score)
            answers.append({"id": name, **self._task.told(data, number, list(best.items())[:top])})
        return answers

    def export(self, workdir: WorkDir) -> list[str]:
        raise UserError("k-NN has no weights of its own: there is nothing to export.")

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        self._task.page(path, self._split(split), answers, self._config["label"])

    # The steps, in order.

    def _split(self, name: str) -> Split:
        return self._encoder.split(self._source(name))

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return jax.set_mesh(self._mesh)

    def _evaluate(self, split: Split) -> Evaluation:
        found, texts = self._candidates(split), self._responses()
        index = split.index
        right = [
            self._task.references(split.source[int(i)], int(turn))
            for i, turn in zip(index.record, index.sub, strict=True)
        ]
        said = [texts[example] for example in found.example[:, 0].tolist()]
        return judged_texts(said, right, index.record, index.sub)

    def _candidates(self, split: Split) -> Candidates:
        """Of each example, at most `top` + `image_top`; the first of them is the answer.

        Raises:
          UserError: an example has none, as it is of the only training dialogue.
        """
        train, options = self._source("train"), self._options["knn"]
        found = self._nearest(
            self._encoder.ask(self._vectors, train),
            self._encoder.ask(self._vectors, split.source),
            options.top,
            split,
        )
        if (found.example[:, 0] < 0).any():
            name = split.ids()[np.argmax(found.example[:, 0] < 0)]
            raise UserError(f"{train.name} has no dialogue beside {name} itself to answer it with.")
        if self._by_photo:
            theirs, ours = (self._seer.ask("image", s) for s in (train, split.source))
            more = self._nearest(
                theirs["vector"], ours["vector"], options.image_top, split, theirs["present"]
            )
            nothing = ~ours["present"][:, None]
            more = Candidates(np.where(nothing, -1, more.example), more.score)
            found = Candidates(*(np.concatenate(pair, 1) for pair in zip(found, more, strict=True)))
        return found if self._ranker is None else self._ranked(found, split)

    def _nearest(
        self,
        pool: np.ndarray,
        queries: np.ndarray,
        k: int,
        split: Split,
        present: np.ndarray | None = None,
    ) -> Candidates:
        """The k nearest of the training examples' vectors, or all where there are fewer.

        None of them is of the dialogue that asks, where that is one of training.

        Args:
          present: bool [P], which have a vector; None: all.
        """
        score = {"l2": SQUARED_DISTANCE, "inner_product": DOT_PRODUCT}[
            self._options["knn"].distance
        ]
        record = self._split("train").index.record
        ids = np.arange(len(pool), dtype=np.int32)
        if present is not None:
            ids = np.where(present, ids, -1)
        own = split.source.fingerprint == self._source("train").fingerprint
        more = int(np.bincount(record).max()) if own else 0
        scores, found = top_k(queries, pool, min(k + more, len(pool)), score=score, ids=ids)
        scores, found = np.asarray(scores), np.asarray(found)
        if own:
            found = np.where(record[found] == split.index.record[:, None], -1, found)
            first = np.argsort(found < 0, axis=1, kind="stable")[:, :k]
            scores, found = (np.take_along_axis(x, first, 1) for x in (scores, found))
        return Candidates(found, scores)

    def _ranked(self, found: Candidates, split: Split) -> Candidates:
        """In the order of TransResNet's scores; of equal ones the nearest first."""
        some, place = np.unique(found.example, return_inverse=True)
        place = place.reshape(found.example.shape)
        contexts = self._ranker.ask("context", split.source)  # [N, D]
        responses = self._ranker.ask("response", self._source("train"), np.maximum(some, 0))
        score = np.stack([responses[at] @ own for at, own in zip(place, contexts, strict=True)])
        score = np.where(found.example < 0, -np.inf, score)
        order = np.argsort(-score, axis=1, kind="stable")
        return Candidates(*(np.take_along_axis(x, order, 1) for x in (found.example, score)))

    def _responses(self) -> Sequence[str]:
        """What was answered in each training example."""
        split = self._split("train")
        pairs = zip(split.index.record, split.index.sub, strict=True)
        return [self._task.response(split.source[int(i)], int(turn)) for i, turn in pairs]

    # The networks.

    @property
    def _by_photo(self) -> bool:
        return self._options["task"].images and self._options["knn"].image_top > 0

    @property
    def _vectors(self) -> str:
        """The encoder's predictor."""
        return "context" if self._options["knn"].encoder.startswith("run://") else "text"

    @property
    def _task(self) -> RankingExamples:
        return self._encoder.task

    @functools.cached_property
    def _encoder(self) -> AskedNetwork:
        place = self._options["knn"].encoder
        if self._vectors == "context":
            return self._of_run("encoder", place)
        return self._pretrained(place, None)

    @functools.cached_property
    def _seer(self) -> AskedNetwork:
        return self._pretrained(None, self._options["knn"].image_weights)

    @functools.cached_property
    def _ranker(self) -> AskedNetwork | None:
        place = self._options["knn"].ranker
        return None if place is None else self._of_run("ranker", place)

    def _pretrained(self, weights: str | None, image_weights: str | None) -> AskedNetwork:
        task = PretrainedEncoderTask(self._options["task"], weights, image_weights)
        # Who looks at photos alone reads no text, but finds its examples among texts.
        if task.weights is not None:
            task.load(task.weights.path)
        elif self._vectors == "text":
            task.load(self._task.weights.path)
        else:
            folder = artifact_folder(self._options["knn"].encoder) / "preprocessing"
            with storage.local_folder(folder) as here:
                task.load(here)
        return open_weights_of(task, self._options, self._mesh)

    def _of_run(self, key: str, place: str) -> AskedNetwork:
        task, images = self._options["task"], self._options["task"].images
        # Whose answers are asked for is our affair; what is seen of a context is the network's.
        asked = {"role": task.role, "answers": task.answers}
        found = open_run(place, f"knn.{key}", RANKING, self._options, self._mesh, asked)
        if found.task.options.images != images:
            raise UserError(
                f"config.knn.{key}={place} was trained with config.task.images={not images}: "
                "give the same here, or name another run."
            )
        return found

    def _parents(self) -> list[dict[str, Any]]:
        options = self._options["knn"]
        named = {"encoder": options.encoder, "ranker": options.ranker}
        if self._by_photo:
            named["image_weights"] = options.image_weights
        return [
            parent(key, str(artifact_folder(place)) if place.startswith("run://") else place)
            for key, place in named.items()
            if place
        ]
