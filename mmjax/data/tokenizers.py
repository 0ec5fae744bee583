"""Text to token ids: a pretrained model's own tokenizer, or one trained on the data at hand.

The work is done by the `tokenizers` and `sentencepiece` libraries. A tokenizer here is the bytes
of its files: that makes its fingerprint, its copy in an artifact, and what a worker process gets.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mmjax.data.tokenizer_characters import MIN_VOCAB, character_vocabulary
from mmjax.data.tokenizer_families import TOKENIZER_JSON, TokenizerFamily, family_of, special_parts
from mmjax.data.tokenizer_files import (
    ADDED_TOKENS,
    SPECIAL_MAP,
    TOKENIZER_CONFIG,
    FamilyTokenizer,
    SentencePieceTokenizer,
    clean,
)
from mmjax.data.tokenizer_words import word_vocabulary
from mmjax.errors import UserError

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

SPECIAL_PIECES, BYTE_PIECES = 4, 256

TRAINED_MODEL = "tokenizer.model"

MAX_FILE_BYTES = 1 << 27  # four times the largest vocabulary's file


class Tokenizer(Protocol):
    """Text to ids, and the ids of special tokens.

    `fingerprint` is a hex digest of the files: equal fingerprints encode equally. `vocab_size` is
    how many rows an embedding needs. `finds_special_tokens`: one that is written out in a text is
    that token there. An id that the tokenizer has no token for raises UserError
    when it is asked for.
    """

    vocab_size: int
    fingerprint: str
    finds_special_tokens: bool

    @property
    def pad_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...
    @property
    def cls_id(self) -> int: ...
    @property
    def sep_id(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def decoder_start_id(self) -> int:
        """What a decoder's input begins with."""

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        """T5's marks of spans that were left out, the first one first."""

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The ids above by the names "pad_token", ..., of those that there are."""

    def to_tokenizers(self) -> Any:
        """The same as a `tokenizers.Tokenizer`; raises UserError where there is no such."""

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of the text, nothing added to it; empty for an empty text."""

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids; special ones, and those of no token, say nothing."""

    def token_id(self, token: str) -> int | None:
        """The id of a token; None where there is no such."""

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load_tokenizer(folder)` reads back."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of a folder that `save` wrote.

    tokenizer.json is preferred; else the files of the family that tokenizer_config.json
    (`tokenizer_class`) or config.json (`model_type`) names; else vocab.txt as BERT's, or any
    SentencePiece *.model whose begin and end pieces then serve as [CLS] and [SEP].

    Raises UserError when the folder has none of them, when a file is damaged or too large, and
    when a token that is needed is not in the vocabulary.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} to read a tokenizer from.")
    settings = _read_json(folder / TOKENIZER_CONFIG)
    model = _read_json(folder / "config.json")
    name, family = family_of(settings.get("tokenizer_class"), model.get("model_type"))
    names = _files_of(folder, name, family)
    more = special_parts(_read_json(folder / SPECIAL_MAP)).keys() - special_parts(settings).keys()
    for extra, tells in (
        (TOKENIZER_CONFIG, settings),
        (SPECIAL_MAP, more),
        (ADDED_TOKENS, names[0] != TOKENIZER_JSON and _read_json(folder / ADDED_TOKENS)),
    ):
        # What tells nothing new would only make another fingerprint.
        if tells:
            names.append(extra)
    files = {n: _read(folder / n) for n in names}
    if name is not None and settings.get("tokenizer_class") is None:
        # Known from config.json, which is the model's and not the tokenizer's.
        files[TOKENIZER_CONFIG] = json.dumps({**settings, "tokenizer_class": name}).encode()
    own = names[0] == TOKENIZER_JSON or names[0] in family.files
    try:
        return FamilyTokenizer(files) if own else SentencePieceTokenizer(files)
    except UserError as e:
        raise UserError(f"{folder / names[0]}: {e}") from e
    # The Rust library raises bare Exception for a file that it cannot parse, or panics, which is no
    # Exception and of a class that nothing exports.
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        raise UserError(
            f"{folder / names[0]} cannot be read as a tokenizer ({e}). Copy it again."
        ) from e


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Trains a SentencePiece unigram model (Kudo 2018) on the texts and saves it into `folder`.

    The same texts in the same order give the same model. `vocab_size` is an upper limit that a
    small corpus stays below. Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then the 256 bytes, which
    spell what the corpus did not contain.

    Raises UserError when there is no text, or `vocab_size` is too small for the bytes.
    """
    import sentencepiece

    texts = [clean(text) for text in texts]
    sentences = _lines("\n".join(texts))
    if not sentences:
        raise UserError("There is no text to train a tokenizer on: every text is empty.")
    if vocab_size < MIN_VOCAB:
        raise UserError(
            f"vocab_size={vocab_size} is too small: bytes and special tokens alone need "
            f"{MIN_VOCAB}. Give a larger one."
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_without_rare_characters(sentences, vocab_size)),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        max_sentence_length=1 << 30,  # longer ones would be left out without a word
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece=PAD,
        unk_piece=UNK,
        bos_piece=CLS,
        eos_piece=SEP,
        num_threads=1,  # the order in which threads finish changes the last digits of the scores
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer({TRAINED_MODEL: model.getvalue()})
    tokenizer.save(folder)
    return tokenizer


def train_word_tokenizer(texts: Iterable[str], min_count: int, folder: str | Path) -> Tokenizer:
    """A vocabulary of the texts' whole words, lower-cased (`tokenizer_words`), saved into `folder`.

    Its begin and end tokens serve as [CLS] and [SEP]; a word that occurs less often than
    `min_count` is unknown. Raises UserError where there is no other.
    """
    tokenizer = FamilyTokenizer(word_vocabulary(texts, min_count))
    tokenizer.save(folder)
    return tokenizer


def train_character_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: str | Path
) -> Tokenizer:
    """The texts' characters, masked things whole (`tokenizer_characters`), saved into `folder`.

    `vocab_size` is an upper limit, above which the rarest are spelled in bytes. Raises UserError
    when there is no text, or it is too small for the bytes.
    """
    tokenizer = FamilyTokenizer(character_vocabulary(texts, vocab_size))
    tokenizer.save(folder)
    return tokenizer


def clip(
    ids: np.ndarray,
    max_length: int,
    cls_id: int,
    sep_id: int,
    keep: Literal["end", "start"] = "end",
) -> np.ndarray:
    """[CLS] ids [SEP] as int32, at most `max_length` long; of a longer row the last ("end") or
    the first ("start") tokens stay.

    Raises ValueError when `max_length` has no room for the two special tokens.
    """
    room = max_length - 2
    if room < 0:
        raise ValueError(f"max_length={max_length}: [CLS] and [SEP] alone need 2")
    if keep not in ("end", "start"):
        raise ValueError(f"keep={keep!r} is neither 'end' nor 'start'")
    ids = np.asarray(ids, np.int32)
    ids = ids[max(len(ids) - room, 0) :] if keep == "end" else ids[:room]
    return np.concatenate([[cls_id], ids, [sep_id]], dtype=np.int32)


def _files_of(folder: Path, name: str | None, family: TokenizerFamily) -> list[str]:
    """Names of the files that make the tokenizer."""
    models = [(file.name,) for file in sorted(folder.glob("*.model"))]
    for names in ((TOKENIZER_JSON,), family.files, *models[:1]):
        if all((folder / n).is_file() for n in names):
            return list(names)
    wanted = " and ".join(family.files)
    if name is None:
        wanted += f", or a SentencePiece *.model, or a tokenizer_class in {TOKENIZER_CONFIG}"
    raise UserError(f"{folder} has no tokenizer: {TOKENIZER_JSON} is needed, or {wanted}.")


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file of JSON; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(_read(file))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{file} cannot be read as JSON ({e}). Copy it again.") from e
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object. Copy it again.")
    return content


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{file} has {size} bytes; no tokenizer's file has more than {MAX_FILE_BYTES}. "
                "Copy it again."
            )
        return file.read_bytes()
    except OSError as e:
        raise UserError(f"{file} cannot be read ({e}). Make it readable, or copy it again.") from e


def _without_rare_characters(sentences: list[str], vocab_size: int) -> list[str]:
    """The sentences, cut at the characters that shall have no piece of their own.

    These are the rarest where all characters (Chinese has thousands) would take more than half
    of the vocabulary and leave no room for words; they are spelled in bytes.
    """
    counts = Counter(c for sentence in sentences for c in sentence)
    room = (vocab_size - SPECIAL_PIECES - BYTE_PIECES) // 2
    rare = {ord(c): "\n" for c, _ in counts.most_common()[room:]}
    return _lines("\n".join(sentences).translate(rare)) if rare else sentences


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
