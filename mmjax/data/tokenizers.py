"""Text to token ids: a pretrained model's own tokenizer, or one trained on the data at hand.

The work is done by the `tokenizers` and `sentencepiece` libraries. A tokenizer here is the bytes
of its files: that makes its fingerprint, its copy in an artifact, and what a worker process gets.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from mmjax.errors import UserError

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

SPECIAL_PIECES, BYTE_PIECES = 4, 256
MIN_VOCAB = 300  # leaves room for a few characters

TOKENIZER_JSON = "tokenizer.json"
VOCAB_TXT = "vocab.txt"
TOKENIZER_CONFIG = "tokenizer_config.json"
TRAINED_MODEL = "tokenizer.model"


class Tokenizer(Protocol):
    """Text to ids, and the ids that frame a sequence.

    `fingerprint` is a hex digest of the files: equal fingerprints encode equally.
    """

    vocab_size: int
    pad_id: int
    cls_id: int
    sep_id: int
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of the text, without special tokens; empty for an empty text."""

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load_tokenizer(folder)` reads back."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of a folder that `save` wrote.

    tokenizer.json is preferred; else vocab.txt (WordPiece, lower-cased as tokenizer_config.json
    says); else a SentencePiece *.model.

    Raises UserError when the folder has none of them or the file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} to read a tokenizer from.")
    models = [file.name for file in sorted(folder.glob("*.model"))]
    for kind, names in (
        (_JsonTokenizer, [TOKENIZER_JSON]),
        (_WordPieceTokenizer, [VOCAB_TXT]),
        (_SentencePieceTokenizer, models[:1]),
    ):
        if not names or not (folder / names[0]).is_file():
            continue
        if (folder / TOKENIZER_CONFIG).is_file():
            names = [*names, TOKENIZER_CONFIG]
        try:
            return kind({name: (folder / name).read_bytes() for name in names})
        except UserError:
            raise
        # The Rust library raises bare Exception for a file that it cannot parse.
        except Exception as e:
            raise UserError(
                f"{folder / names[0]} cannot be read as a tokenizer ({e}). Copy it again."
            ) from e
    raise UserError(
        f"{folder} has no tokenizer: {TOKENIZER_JSON}, {VOCAB_TXT} or a SentencePiece *.model "
        "is needed."
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Trains a SentencePiece unigram model (Kudo 2018) on the texts and saves it into `folder`.

    The same texts in the same order give the same model. `vocab_size` is an upper limit that a
    small corpus stays below. Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then the 256 bytes, which
    spell what the corpus did not contain.

    Raises UserError when there is no text, or `vocab_size` is too small for the bytes.
    """
    import sentencepiece

    texts = [_clean(text) for text in texts]
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
    tokenizer = _SentencePieceTokenizer({TRAINED_MODEL: model.getvalue()})
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


class _FileTokenizer:
    """What all kinds share: they are their files, and reopen from them in another process."""

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

    def _config(self) -> dict:
        return json.loads(self._files.get(TOKENIZER_CONFIG, b"{}"))


class _JsonTokenizer(_FileTokenizer):
    """tokenizer.json, through the `tokenizers` library."""

    def __init__(self, files: dict[str, bytes]):
        super().__init__(files)
        self._tokenizer = self._build()
        # A saved tokenizer may cut and fill up every text; here that is the featurizer's choice.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.pad_id, self.cls_id, self.sep_id = (
            self._special(key, default)
            for key, default in (("pad_token", PAD), ("cls_token", CLS), ("sep_token", SEP))
        )

    def _build(self):
        import tokenizers

        return tokenizers.Tokenizer.from_str(self._files[TOKENIZER_JSON].decode("utf-8"))

    def encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(_clean(text), add_special_tokens=False).ids
        return np.asarray(ids, np.int32)

    def _special(self, key: str, default: str) -> int:
        token = self._config().get(key) or default
        token = token["content"] if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(
                f"The tokenizer has no token {token!r}, which {key} names. Use the tokenizer of "
                "an encoder such as BERT."
            )
        return found


class _WordPieceTokenizer(_JsonTokenizer):
    """vocab.txt, one word piece per line."""

    def _build(self):
        import tokenizers

        pieces = self._files[VOCAB_TXT].decode("utf-8").split("\n")
        vocab = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece.rstrip("\r")}
        config = self._config()
        return tokenizers.BertWordPieceTokenizer(
            vocab,
            lowercase=config.get("do_lower_case", True),
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        )


class _SentencePieceTokenizer(_FileTokenizer):
    """A SentencePiece model whose begin and end pieces serve as [CLS] and [SEP]."""

    def __init__(self, files: dict[str, bytes]):
        import sentencepiece

        super().__init__(files)
        model = next(content for name, content in files.items() if name.endswith(".model"))
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.get_piece_size()
        self.pad_id = self._processor.pad_id()
        self.cls_id = self._processor.bos_id()
        self.sep_id = self._processor.eos_id()
        if min(self.pad_id, self.cls_id, self.sep_id) < 0:
            raise UserError(
                "The SentencePiece model lacks a padding, begin or end piece. Train it with "
                "pad_id, bos_id and eos_id."
            )

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._processor.encode(_clean(text), out_type=int), np.int32)


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


def _clean(text: str) -> str:
    """The text without lone surrogates (half an emoji, cut badly), which no library takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
