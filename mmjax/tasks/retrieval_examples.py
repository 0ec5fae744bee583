"""The examples of photo retrieval: who asks for which photo, and what is known of it.

An example is a dialogue cut before a share turn, with the shared photo. The query is what was said
before; a candidate is a photo, known by the text of its object labels, by its pixels, or by both,
or by its regions.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from mmjax.config import judging, limited
from mmjax.data.boxes import BadBoxError, largest_boxes
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Ragged
from mmjax.data.images import ImageOptions, decode_image
from mmjax.data.perturb import INPUTS
from mmjax.data.regions import RegionOptions
from mmjax.data.schema import Dialogue, Photo, labels_of
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Pool, RetrievalEvaluator, candidate_pool
from mmjax.metrics.retrieval import RankCounts, Ranking, recall_at_k
from mmjax.observe.page import thumbnail, write_page
from mmjax.observe.sheet import contact_sheet

Query = Literal["sharer", "both", "marked"]


@dataclasses.dataclass(frozen=True)
class RetrievalOptions:
    """What is asked, what is learned, what is counted.

    Attributes:
      candidate: what is seen of a photo: the text of its labels (DE_label), its pixels (DE_img),
        both (DE), features of its regions (SCAN), or its pixels as regions: the boxes of its
        objects, and the whole photo, so that one without boxes has a region too (SCAN).
      query: whose turns before the share make the query, joined by a space: the sharer's (as in
        the paper), or both speakers'; "marked": both, each said to be whose.
      query_max_length, label_max_length: tokens, with [CLS] and [SEP].
      after: in training, what was said from a share on asks for its photo too: an example more per
        share. It tells what is in the photo, more plainly than what led up to it. Dev and test are
        asked with what was said before, as ever.
      keep: which end of a query that is too long is kept.
      label_separator: between the labels of a photo.
      loss: "ce" (softmax in both directions, summed), "sh" (sum of hinges), "mh" (hardest hinge),
        "sigmoid" (each pair on its own, as SigLIP; wants a logit_bias and a learned scale).
      margin: of the hinges.
      reduction: over the batch; VSE++ sums.
      mask_equal_labels: photos with equal labels are no negatives of each other where labels are
        all that is seen. Photos with the same id, or in which the same pixels (and labels) are
        seen, never are.
      image: how photos become pixels.
      regions: how many there are of a photo, and of which width.
      ties: how equal scores count in R@K: "expected", "pessimistic" or "argsort_reversed".
      train_pool: of how many examples the photos are candidates when the training split is
        answered, see `RetrievalText.rounds`.
    """

    candidate: Literal["labels", "pixels", "both", "regions", "boxes"] = "labels"
    query: Query = "sharer"
    query_max_length: int = limited(128, low=3)
    label_max_length: int = limited(128, low=3)
    after: bool = False
    keep: Literal["end", "start"] = "end"
    label_separator: str = ", "
    loss: Literal["ce", "sh", "mh", "sigmoid"] = "ce"
    margin: float = limited(0.2, low=0)
    reduction: Literal["mean", "sum"] = "mean"
    mask_equal_labels: bool = True
    image: ImageOptions = ImageOptions()  # noqa: RUF009 - it is frozen
    regions: RegionOptions = RegionOptions()  # noqa: RUF009 - it is frozen
    ties: Literal["expected", "pessimistic", "argsort_reversed"] = judging("expected")
    train_pool: int = judging(1000, low=1)


def shared_photo(dialogue: Dialogue, sub: int) -> tuple[int, Photo]:
    """Position of the dialogue's share turn number `sub`, and its photo."""
    shares = [(i, photo) for i, turn in enumerate(dialogue.turns) for photo in turn.photos]
    return shares[sub]


def asking_turns(dialogue: Dialogue, sub: int, speakers: Query) -> list[int]:
    """Positions of the turns before the share that make the query."""
    position, _ = shared_photo(dialogue, sub)
    sharer = dialogue.turns[position].speaker
    return [
        i
        for i, turn in enumerate(dialogue.turns[:position])
        if turn.text.strip() and (speakers != "sharer" or turn.speaker == sharer)
    ]


def query_text(dialogue: Dialogue, sub: int, speakers: Query) -> str:
    """What was said before the share, by the sharer or by both, joined by a space.

    Marked, the sharer's turns are "me: ..." and the others' "you: ...", once where one of them goes
    on: words, which every tokenizer and every pretrained encoder knows.
    """
    turns = [dialogue.turns[i] for i in asking_turns(dialogue, sub, speakers)]
    if speakers != "marked":
        return " ".join(turn.text.strip() for turn in turns)
    sharer = dialogue.turns[shared_photo(dialogue, sub)[0]].speaker
    said = itertools.groupby(turns, key=lambda turn: turn.speaker == sharer)
    return " ".join(
        " ".join(["me:" if own else "you:", *(turn.text.strip() for turn in group)])
        for own, group in said
    )


class ExampleText(NamedTuple):
    """An example's texts; `sub`, `keys` as in `Example`."""

    sub: int
    query: str
    labels: str
    keys: Mapping[str, str]


class RetrievalText:
    """What systems with and without gradients share: examples, queries, the pool, answers."""

    ragged: Mapping[str, Ragged] = {}
    cached = ("query", "photo")

    def __init__(self, options: RetrievalOptions):
        self.options = options

    @property
    def reads(self) -> bool:
        """Whether the text of the labels is read."""
        return self.options.candidate in ("labels", "both")

    @property
    def photos(self) -> bool:
        """Whether pixels are seen."""
        return self.options.candidate in ("pixels", "both", "boxes")

    @property
    def boxes(self) -> bool:
        """Whether pixels are seen in boxes."""
        return self.options.candidate == "boxes"

    @property
    def regions(self) -> bool:
        """Whether features of regions are seen."""
        return self.options.candidate == "regions"

    @property
    def inputs(self) -> frozenset[str]:
        reads = {"labels": self.reads, "images": self.photos or self.regions}
        reads["speakers"] = self.options.query != "both"
        return frozenset(name for name in INPUTS if reads.get(name, True))

    def query(self, dialogue: Dialogue, sub: int) -> str:
        """The text that asks."""
        return query_text(dialogue, sub, self.options.query)

    def labels(self, dialogue: Dialogue, sub: int) -> str:
        """The text of the photo that is looked for."""
        return self.options.label_separator.join(labels_of(shared_photo(dialogue, sub)[1]))

    @property
    def identity(self) -> Mapping[str, Any]:
        names = ("candidate", "query", "query_max_length", "label_max_length", "label_separator")
        found = {"task": "retrieval", **{name: getattr(self.options, name) for name in names}}
        # How many boxes are seen decides which photos are equal.
        return found | ({"regions": self.options.regions.count} if self.boxes else {})

    @property
    def key_names(self) -> tuple[str, ...]:
        """Photos that are equal under one of these are no negatives of each other."""
        alike = {"labels": "label_set", "pixels": "pixels"}
        alike = alike.get(self.options.candidate, "content")
        masked = self.options.candidate != "labels" or self.options.mask_equal_labels
        return ("photo", alike) if masked else ("photo",)

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        return map(self._example, self.texts(dialogue))

    def remaining(self, dialogue: Dialogue, subs: Sequence[int]) -> Iterable[Example]:
        """A query or a candidate of which nothing is left is an empty text."""
        shares = [photo for turn in dialogue.turns for photo in turn.photos]
        return map(self._example, (self._text(dialogue, sub, shares[sub]) for sub in subs))

    def _example(self, text: ExampleText) -> Example:
        return Example(text.sub, {}, text.keys)

    def texts(self, dialogue: Dialogue) -> Sequence[ExampleText]:
        """Every example in the dialogue.

        Raises:
          SkipRecord: no photo is shared, nothing was said before, or nothing is known of it.
        """
        shares = [photo for turn in dialogue.turns for photo in turn.photos]
        if not shares:
            raise SkipRecord("no photo is shared")
        found = []
        for sub, photo in enumerate(shares):
            text = self._text(dialogue, sub, photo)
            seen = (self.reads and text.labels) or (self.photos and photo.file is not None)
            seen = seen or (self.regions and photo.regions is not None)
            if text.query and seen:
                found.append(text)
        if not found:
            nothing = {
                "labels": "the photo has no labels",
                "pixels": "the photo could not be had",
                "both": "the photo has no labels and could not be had",
                "regions": "the photo has no features of regions (config.data.regions=PLACE)",
                "boxes": "the photo could not be had",
            }[self.options.candidate]
            raise SkipRecord(nothing if text.query else "nothing was said before the photo")
        return found

    def _text(self, dialogue: Dialogue, sub: int, photo: Photo) -> ExampleText:
        labels = self.labels(dialogue, sub)
        return ExampleText(sub, self.query(dialogue, sub), labels, self._keys(photo, labels))

    def _keys(self, photo: Photo, labels: str) -> dict[str, str]:
        pixels = f"missing: {photo.id}" if photo.file is None else photo.file.digest
        # What a model takes in, in its order; photos with equal content are embedded once.
        content = {
            "labels": labels,
            "pixels": pixels,
            "both": f"{pixels}\n{labels}",
            "regions": "" if photo.regions is None else photo.regions.digest,
        }
        if self.boxes:
            content["boxes"] = f"{pixels}\n{self.boxes_of(photo).tolist()}"
        return {
            "photo": photo.id,
            "content": content[self.options.candidate],
            "label_set": "\n".join(sorted(set(labels_of(photo)))),
            "pixels": pixels,
        }

    def boxes_of(self, photo: Photo) -> np.ndarray:
        """Those that are seen beside the whole photo, see `largest_boxes`. Raises UserError."""
        try:
            return largest_boxes(photo.boxes, self.options.regions.count - 1)
        except BadBoxError as error:
            raise UserError(f"photo {photo.id}: {error}; mend it, or leave it out.") from error

    def evaluator(self) -> RetrievalEvaluator:
        """R@1, R@5, R@10 among the distinct photos of the split."""
        return RetrievalEvaluator(ties=self.options.ties)

    def pool(self, split: Split) -> Pool:
        """The split's distinct photos."""
        return candidate_pool(split.index, candidate="photo", content="content")

    def rounds(self, split: Split) -> list[np.ndarray]:
        """Numbers of the examples that are answered together, among the photos of each other.

        A split that is judged is one round. Training has many times as many photos, and the best
        of them all are closer to the right one than the best of a judged split are: whoever learns
        from its answers to look closer (`mmjax.tasks.rerank`) would learn from other mistakes than
        are made there. So training is answered in rounds of `train_pool` examples, drawn once.
        """
        count = len(split.index)
        rounds = -(-count // self.options.train_pool) if split.source.name.endswith(":train") else 1
        order = np.random.default_rng(0).permutation(count)
        return [np.sort(part) for part in np.array_split(order, rounds)]

    def in_rounds(
        self, split: Split, answer: Callable[[Split, np.ndarray], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """What `answer` says of each round and its examples' numbers, in the split's order."""
        found: dict[int, dict[str, Any]] = {}
        for numbers in self.rounds(split):
            told = answer(Split(split.source, split.index.take(numbers)), numbers)
            found |= zip(numbers.tolist(), told, strict=True)
        return [found[i] for i in range(len(split.index))]

    def told(
        self, split: Split, ranking: Ranking, examples: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """What a ranking found for every example, or for the given ones, as JSON values.

        "above" counts the candidates with a higher score than the right one, "equal" those with
        the same score, itself included.
        """
        pool, index, ids = self.pool(split), split.index, split.ids()

        def example(i: int) -> tuple[Dialogue, int]:
            return split.source[int(index.record[i])], int(index.sub[i])

        photos = [shared_photo(*example(i))[1] for i in pool.example_of]
        examples = range(len(index)) if examples is None else examples
        return [
            self._answer(*example(i), ids[i], photos, pool.gold[i], ranking, row)
            for row, i in enumerate(examples)
        ]

    def _answer(
        self,
        dialogue: Dialogue,
        sub: int,
        name: str,
        photos: list[Photo],
        gold: int,
        ranking: Ranking,
        row: int,
    ) -> dict[str, Any]:
        position, _ = shared_photo(dialogue, sub)
        before = dialogue.turns[:position]

        def shown(photo: int, score: float) -> dict[str, Any]:
            score = float(f"{score:.9g}")  # all that float32 holds
            return {"photo": photos[photo].id, "labels": list(photos[photo].labels), "score": score}

        return {
            "id": name,
            "turns": [{"speaker": turn.speaker, "text": turn.text} for turn in before],
            "sharer": dialogue.turns[position].speaker,
            "asked": asking_turns(dialogue, sub, self.options.query),
            "query": self.query(dialogue, sub),
            **shown(gold, ranking.own[row]),
            "above": int(ranking.counts.greater[row]),
            "equal": int(ranking.counts.equal[row]),
            "top": [
                shown(photo, score)
                for photo, score in zip(ranking.top[row], ranking.scores[row], strict=True)
                if photo >= 0
            ],
        }

    def page(
        self, path: epath.PathLike, split: Split, answers: list[dict[str, Any]], title: str
    ) -> None:
        """An HTML page of the answers, see `mmjax.observe.page`."""
        photos = split.source.photos or {}

        def small(name: str) -> bytes | None:
            return thumbnail(photos[name].read()) if name in photos else None

        counts = RankCounts(
            greater=np.array([answer["above"] for answer in answers], np.int64),
            equal=np.array([answer["equal"] for answer in answers], np.int64),
            equal_after=np.zeros(len(answers), np.int64),
        )
        recalls = {f"recall@{k}": recall_at_k(counts, k) for k in (1, 5, 10)}
        together = Split(split.source, split.index.take(self.rounds(split)[0]))
        about = {
            "split": split.source.name,
            "candidates": f"{len(self.pool(together).example_of):,}",
            **{name: f"{100 * values.mean():.1f}" for name, values in recalls.items()},
        }
        write_page(path, answers, thumbnail=small, title=title, about=about)

    def sheet(self, split: Split, answers: list[dict[str, Any]]) -> np.ndarray:
        """The answers as a picture, uint8 [H, W, 3]."""
        photos = split.source.photos or {}

        def pixels(name: str) -> np.ndarray | None:
            return decode_image(photos[name].read(), shortest=160) if name in photos else None

        return contact_sheet(answers, pixels=pixels)
