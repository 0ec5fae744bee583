"""What the tasks that write text have in common: a GPT learns it, and people's texts judge it.

What is read and what is written are a task's `Goal`: `response`, `rewrite`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Key

from mmjax.data import tokenizers
from mmjax.data.examples import Example
from mmjax.data.featurize import Lazy, Ragged, buckets_up_to
from mmjax.data.images import BadImageError, PhotoReader
from mmjax.data.knowledge import check_known, facts
from mmjax.data.packing import Packing
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.decoding.generate import generate
from mmjax.decoding.generator import generator
from mmjax.errors import UserError
from mmjax.evaluators import Predict
from mmjax.evaluators_generation import GenerationEvaluator
from mmjax.losses.objective import LocalTerm, Objective
from mmjax.losses.response import next_is_learned
from mmjax.models.decoder import Decoder
from mmjax.pretrained.exported import ModelFolder
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.generation_answers import told, write_told
from mmjax.tasks.generation_examples import GenerationOptions, GenerationRows, Goal
from mmjax.tasks.generation_export import generation_folders
from mmjax.tasks.generation_model import GenerationModel, ModelOptions
from mmjax.tasks.towers import check_vocabulary

# Features of images.
IMAGES = ("image", "has_image", "mirror")


class GenerationTask(Task):
    """See `mmjax.tasks.base.Task` for the members."""

    key_names = ()
    packs = True
    cached = ("text", "speaker", "response", "image_at", "reply_speaker")

    def __init__(self, options: GenerationOptions, model: ModelOptions, goal: Goal):
        self.options, self.goal = options, goal
        self._model = GenerationModel(options, model)
        self._rows: GenerationRows | None = None
        self._read_photo = PhotoReader(options.image)
        if self._model.weights is not None:
            # A folder that does not fit is told of now, and not once the data are prepared.
            self.load(self._model.weights.path)
            self.module()

    @property
    def independent(self) -> bool:
        return self._model.independent

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._model.weights, folder)

    # Data

    @property
    def photos(self) -> bool:
        return self._model.sees

    @property
    def role(self) -> str | None:
        return self.goal.role

    @property
    def inputs(self) -> frozenset[str]:
        """Not what is said: with other texts in a dialogue, other texts would be right."""
        read = {"images": self.photos, "knowledge": self.options.knowledge}
        return frozenset(name for name, is_read in read.items() if is_read)

    def read_with(self, source: Source, split: str) -> Source:
        if self.options.knowledge:
            check_known(source)
        return source

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer."""
        dialogues = (source[i] for i in range(len(source)))
        read = _texts_and_facts if self.options.knowledge else _texts
        self._model.fit_tokenizer((text for d in dialogues for text in read(d)), folder)
        self.load(folder)

    def load(self, folder: epath.PathLike) -> None:
        tokenizer = tokenizers.load_tokenizer(os.fspath(folder))
        self._rows = GenerationRows(self.options, self.goal, tokenizer, self._model.vectors)

    @property
    def identity(self) -> Mapping[str, Any]:
        names = ("max_length", "target_max_length")
        return {
            "task": self.goal.name,
            "rules": 2,  # raised when the same options come to mean other examples
            "goal": dict(self.goal.identity),
            "tokenizer": self._rows.tokenizer.fingerprint,
            "vectors": self._rows.vectors,
            "max_images": self.options.max_images if self.photos else 0,
            "knowledge": self.options.knowledge_max_length if self.options.knowledge else 0,
            **{name: getattr(self.options, name) for name in names},
        }

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        lengths = buckets_up_to(self.options.max_length, per_octave=2)
        pads = {"text": self._rows.marks.pad}
        ragged = {n: Ragged(pads.get(n, 0), lengths) for n in self._rows.token_features}
        return {**ragged, "reply_speaker": Ragged(0, (1,))}

    def packing(self, row_length: int) -> Packing:
        ragged = {name: Ragged(own.pad, (row_length,)) for name, own in self.ragged.items()}
        if not self.photos:
            return Packing({"text": row_length}, ragged)
        images = self.options.max_images * max(1, row_length // self.options.max_length)
        return Packing(
            {"text": row_length, "images": images},
            ragged,
            numbers={"image_at": "image_vectors"},
            lists=dict.fromkeys(IMAGES, "images"),
        )

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        return self._rows.examples(dialogue)

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        row = functools.cache(lambda: self._rows.row(dialogue, sub))
        make = {n: lambda n=n: row().tokens[n] for n in self._rows.token_features}
        make["reply_speaker"] = lambda: np.array([row().mark], np.int32)
        if self.photos:
            count, options = self.options.max_images, self.options.image
            # Drawn whether it is asked for or not: what is drawn next does not depend on that.
            mirror = np.zeros(count, bool)
            if rng is not None and options.mirror:
                mirror = rng.random(count) < 0.5
            make["image"] = lambda: self._pixels(row().photos, rng)
            make["has_image"] = lambda: np.arange(count) < len(row().photos)
            make["mirror"] = lambda: mirror
        return Lazy(**make)

    def _pixels(self, photos: Sequence[Photo], rng: np.random.Generator | None) -> np.ndarray:
        """uint8 [I, S, S, 3], zeros after the last photo."""
        size = self.options.image.size
        pixels = np.zeros((self.options.max_images, size, size, 3), np.uint8)
        for place, photo in zip(pixels, photos, strict=False):
            try:
                place[:] = self._read_photo(photo.file, rng).pixels
            except BadImageError as error:  # each was read when it was prepared
                raise UserError(
                    f"photo {photo.id} cannot be read any more ({error}): delete the prepared data."
                ) from error
        return pixels

    # Learning

    def module(self) -> Decoder:
        return self._model.module(self._rows.tokenizer, self._rows.marks)

    def objective(self) -> Objective:
        return Objective([LocalTerm(self.goal.name, self._model.loss)])

    def predictors(self) -> Mapping[str, Predictor]:
        """ "written": ids [B, T] of an answer to what is read; "log_p", [B, 2]: log-probability and
        number of tokens of the text that people wrote."""
        module = self.module()
        features = (*self._rows.token_features, "reply_speaker", *(IMAGES if self.photos else ()))

        def log_p(variables: Any, batch: Any) -> jax.Array:
            losses = module.apply(variables, batch, train=False)["losses"]  # [B, L]
            learned = next_is_learned(batch)
            # where, and not the product alone: a loss that does not count may be infinite.
            found = -jnp.where(learned > 0, losses, 0)
            return jnp.stack([found.sum(axis=1), learned.sum(axis=1)], axis=1)

        written = functools.partial(self._written, module)
        return {"written": Predictor(written, features), "log_p": Predictor(log_p, features)}

    def _written(self, module: Decoder, variables: Any, batch: Any) -> jax.Array:
        marks, decoding = self._rows.marks, self.options.decoding
        # The text that people wrote is cut off, and what of it stands further ahead masked.
        prompt = {
            name: jax.tree.map(lambda x: x[:, : self.options.prompt_max_length], value)
            if name in self._rows.token_features
            else value
            for name, value in batch.items()
        }
        ids = prompt["text"]["ids"]
        mask = prompt["text"]["mask"] & (prompt["response"]["ids"] == 0)
        prompt["text"] = {"ids": ids, "mask": mask}
        prompt["reply_speaker"] = batch["reply_speaker"]["ids"][:, 0]
        answers = generate(
            generator(module, variables, prompt, ids, mask),
            decoding,
            eos_id=marks.end,
            pad_id=marks.pad,
            allowed=self._words(module.config.text.vocab_size),
            key=_keys(ids, mask) if decoding.sample else None,
        )
        return answers.ids[:, 0]

    def _words(self, size: int) -> np.ndarray:
        """bool [V]: the tokens that a text is made of, and its end."""
        tokenizer, marks = self._rows.tokenizer, self._rows.marks
        words = np.arange(size) < tokenizer.vocab_size
        words[[*tokenizer.special_ids.values(), *marks.speakers, marks.rewrite]] = False
        words[marks.end] = True
        return words

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._model.initial_variables(target)

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        config = self.module().config
        words = self._words(config.text.vocab_size)
        return generation_folders(config, variables["params"], self._rows, self.goal.name, words)

    # Judging

    def evaluator(self) -> GenerationEvaluator:
        return GenerationEvaluator(
            decode=self.decode,
            references=self.references,
            in_training_at_most=self.options.written_in_training,
            read=self.read if self.options.slots else None,
            sees=self.photos,
        )

    def read(self, dialogue: Dialogue, sub: int) -> tuple[Turn, ...]:
        """The turns that an example asks with, and of their photos the last `max_images`.

        Nothing here depends on what a model sees, so that all are judged on the same slots: neither
        the cut at `prompt_max_length`, which falls elsewhere where photos take tokens, nor whether
        a photo's pixels could be had.
        """
        left, turns = self.options.max_images, []
        for turn in reversed(dialogue.turns[: self.goal.read(sub)]):
            photos = turn.photos[-left:] if left else ()
            left -= len(photos)
            turns.insert(0, dataclasses.replace(turn, photos=photos))
        return tuple(turns)

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids up to their end."""
        return self._rows.tokenizer.decode(ids[: _end(ids, self._rows.marks.end)]).strip()

    def references(self, dialogue: Dialogue, sub: int) -> tuple[str, ...]:
        return tuple(text.strip() for text in self.goal.references(dialogue.turns[sub]))

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """What is written for every example; "reference_log_p" is that of the first reference, and
        "reference_tokens" its number of tokens. `top` says nothing here."""
        everything = np.arange(len(split.index))
        texts = [self.decode(ids) for ids in predict("written", everything)]
        likely = predict("log_p", everything).tolist()
        said = told(self.goal, split, texts, knowledge=self.options.knowledge)
        return [
            answer | {"reference_log_p": float(f"{log_p:.6g}"), "reference_tokens": int(tokens)}
            for answer, (log_p, tokens) in zip(said, likely, strict=True)
        ]

    def page(
        self, path: epath.PathLike, split: Split, answers: list[dict[str, Any]], title: str
    ) -> None:
        write_told(path, split, answers, title)


def _texts(dialogue: Dialogue) -> Iterable[str]:
    """All that is read or written in a dialogue."""
    for turn in dialogue.turns:
        yield from (text for text in (turn.text, *turn.references, *(turn.rewrites or ())) if text)


def _texts_and_facts(dialogue: Dialogue) -> Iterable[str]:
    yield from _texts(dialogue)
    yield from facts(dialogue)


def _keys(ids: Int[jax.Array, "B L"], mask: Bool[jax.Array, "B L"]) -> Key[jax.Array, " B"]:
    """A key of what each row reads, so that batches of other rows or lengths draw the same."""
    place = jnp.cumsum(mask, axis=1).astype(jnp.uint32)
    # A sum of hashes: of token and place.
    mixed = (ids.astype(jnp.uint32) + 1) * jnp.uint32(2654435761) ^ place * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    found = jnp.where(mask, mixed, 0).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), found)


def _end(ids: np.ndarray, end: int) -> int:
    found = np.flatnonzero(np.asarray(ids) == end)
    return int(found[0]) if len(found) else len(ids)
