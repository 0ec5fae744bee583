"""Tokenizers as the bytes of their files, which reopen from them and save them again."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.chinese import unspaced
from mmjax.data.tokenizer_families import (
    SENTINEL,
    SPECIAL_TOKENS,
    TOKENIZER_JSON,
    TokenizerFamily,
    family_of,
    sentencepiece_unigram,
    special_parts,
)
from mmjax.errors import UserError

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"

TOKEN_KEYS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


class FileTokenizer:
    """What all kinds share: they are their files, and reopen from them in another process.

    A kind gives `token_id(token)`, None for one it has not, `_special`, the ids by name, and
    `_decoder_start`, a name; `_join(ids)`, the text of ids without special ones; `to_tokenizers()`,
    the same in the `tokenizers` library, and whether a special token that is written out in a text
    is that token there (`finds_special_tokens`).
    """

    _special: dict[str, int]
    _decoder_start: str | None
    finds_special_tokens: bool

    def __init__(self, files: dict[str, bytes]):
        self._files = files
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
        self.fingerprint = digest.hexdigest()

    def __reduce__(self):
        return type(self), (self._files,)

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (Path(folder) / name).write_bytes(content)

    pad_id = property(lambda self: self._id("pad_token"))
    unk_id = property(lambda self: self._id("unk_token"))
    cls_id = property(lambda self: self._id("cls_token"))
    sep_id = property(lambda self: self._id("sep_token"))
    bos_id = property(lambda self: self._id("bos_token"))
    eos_id = property(lambda self: self._id("eos_token"))
    mask_id = property(lambda self: self._id("mask_token"))

    @property
    def decoder_start_id(self) -> int:
        if self._decoder_start is None:
            raise UserError(
                "The tokenizer has no token that a decoder's input begins with. Use the tokenizer "
                "of a model that generates text, such as T5 or GPT-2."
            )
        return self._id(self._decoder_start)

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        numbered = (self.token_id(SENTINEL.format(i)) for i in itertools.count())
        found = tuple(itertools.takewhile(lambda token: token is not None, numbered))
        if not found:
            raise UserError(
                f"The tokenizer has no sentinels ({SENTINEL.format(0)}, ...), which are needed "
                "here. Use the tokenizer of a T5."
            )
        return found

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The ids above by name ("sep_token"), of those that there are."""
        return self._special

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids; special ones, and those of no token, say nothing."""
        silent = set(self._special.values())
        return self._join([i for i in map(int, ids) if i < self.vocab_size and i not in silent])

    def _id(self, name: str) -> int:
        if name not in self._special:
            raise UserError(
                f"The tokenizer has no {name}, which is needed here. Name one of its tokens as "
                f"{name} in {TOKENIZER_CONFIG}, or use the tokenizer of another kind of model."
            )
        return self._special[name]


class FamilyTokenizer(FileTokenizer):
    """A tokenizer.json, or the files of a family, through the `tokenizers` library."""

    finds_special_tokens = True

    def __init__(self, files: dict[str, bytes]):
        import tokenizers

        super().__init__(files)
        settings = {**self._json(SPECIAL_MAP), **self._json(TOKENIZER_CONFIG)}
        _, family = family_of(settings.get("tokenizer_class"))
        if TOKENIZER_JSON in files:
            text = files[TOKENIZER_JSON].decode("utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        else:
            self._tokenizer = family.build(files, settings)
        self._add_tokens(settings, family)
        # A saved tokenizer may cut and fill up every text; here that is the featurizer's choice.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        names = {**family.special, **special_parts(settings)}
        ids = {name: self.token_id(token) for name, token in names.items()}
        self._special = {name: found for name, found in ids.items() if found is not None}
        self._decoder_start = family.decoder_start
        required = family.required if TOKENIZER_JSON not in files else ()
        for name in required:
            if name not in self._special:
                raise UserError(
                    f"the vocabulary has no token {names[name]!r}, which is its {name}. Copy the "
                    f"whole folder again, or name another token in {TOKENIZER_CONFIG}."
                )

    def encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(clean(text), add_special_tokens=False).ids
        return np.asarray(ids, np.int32)

    def _join(self, ids: list[int]) -> str:
        from tokenizers import decoders

        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        if isinstance(self._tokenizer.decoder, decoders.WordPiece):
            # Of its pieces nobody knows whether there was a space between them.
            text = unspaced(text)
        return text

    def to_tokenizers(self) -> Any:
        """A copy of it as `tokenizers.Tokenizer`."""
        return copy.deepcopy(self._tokenizer)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def _json(self, name: str) -> dict[str, Any]:
        return json.loads(self._files.get(name, b"{}"))

    def _add_tokens(self, settings: dict[str, Any], family: TokenizerFamily) -> None:
        """Makes special tokens whole, which are then found in text, each with the id it had.

        Those that the settings name are added where the vocabulary lacks them.
        """
        import tokenizers

        numbered = {int(i): token for i, token in settings.get("added_tokens_decoder", {}).items()}
        numbered |= {i: token for token, i in self._json(ADDED_TOKENS).items() if i not in numbered}
        named = {n: t for n, t in family.special.items() if self.token_id(t) is not None}
        named |= {name: settings[name] for name in SPECIAL_TOKENS if settings.get(name)}
        named = [named[name] for name in SPECIAL_TOKENS if name in named]
        for place, token in [*sorted(numbered.items()), *((None, token) for token in named)]:
            how = dict(token) if isinstance(token, dict) else {"content": token}
            how = {key: how[key] for key in TOKEN_KEYS if key in how}
            if TOKENIZER_JSON in self._files and self.token_id(how["content"]) is not None:
                continue  # as the file has it
            self._tokenizer.add_tokens([tokenizers.AddedToken(**{"special": True, **how})])
            found = self.token_id(how["content"])
            if place is not None and found != place:
                raise UserError(
                    f"the token {how['content']!r} would be number {found}, but {TOKENIZER_CONFIG} "
                    f"or {ADDED_TOKENS} says {place}. Copy the whole folder again."
                )


class SentencePieceTokenizer(FileTokenizer):
    """A SentencePiece model whose begin and end pieces serve as [CLS] and [SEP]."""

    _decoder_start = "bos_token"
    finds_special_tokens = False

    def __init__(self, files: dict[str, bytes]):
        import sentencepiece

        super().__init__(files)
        self._model = next(content for name, content in files.items() if name.endswith(".model"))
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        self.vocab_size = self._processor.get_piece_size()
        bos, eos = self._processor.bos_id(), self._processor.eos_id()
        ids = {
            "pad_token": self._processor.pad_id(),
            "unk_token": self._processor.unk_id(),
            "bos_token": bos,
            "cls_token": bos,
            "eos_token": eos,
            "sep_token": eos,
        }
        self._special = {name: piece for name, piece in ids.items() if piece >= 0}

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._processor.encode(clean(text), out_type=int), np.int32)

    def _join(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def to_tokenizers(self) -> Any:
        """The same as `tokenizers.Tokenizer`; raises UserError where that library has no such."""
        try:
            return sentencepiece_unigram(self._model)
        except ValueError as e:
            raise UserError(
                f"the tokenizer cannot be written as {TOKENIZER_JSON}: {e}. Train with the "
                "tokenizer of a model family, or with one trained on the dialogues."
            ) from e

    def token_id(self, token: str) -> int | None:
        found = self._processor.piece_to_id(token)
        return None if found == self._processor.unk_id() else found


def clean(text: str) -> str:
    """The text without lone surrogates (half an emoji, cut badly), which no library takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
