"""The tokenizers of Hugging Face's model families, built from the files that each is kept in.

What a family adds to its vocabulary (how text is normalised and cut, which tokens are special) is
in no file where there is no tokenizer.json; it is stated here, in the parts of the `tokenizers`
library.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER_JSON = "tokenizer.json"
VOCAB_TXT = "vocab.txt"
SPIECE_MODEL = "spiece.model"
VOCAB_JSON, MERGES_TXT = "vocab.json", "merges.txt"

SENTINEL = "<extra_id_{}>"  # T5's: what stands for a span that was left out
T5_SENTINELS = 100  # where the folder does not say

# Words, numbers digit by digit, runs of anything else, and English endings (Radford et al. 2021).
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Files = Mapping[str, bytes]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class TokenizerFamily:
    """Tokenizers of one kind.

    Attributes:
      files: what `build` reads where there is no tokenizer.json.
      build: makes a `tokenizers.Tokenizer` of the files and of tokenizer_config.json's settings;
        special tokens that are not in the vocabulary are added by the caller.
      special: tokens by the settings' names for them, where these do not name others.
      required: names without which nothing can be encoded; a tokenizer.json has its own.
      decoder_start: name of the token that a decoder's input begins with; None: there is none.
    """

    files: tuple[str, ...]
    build: Callable[[Files, Settings], Any]
    special: Mapping[str, str]
    required: tuple[str, ...] = ("unk_token",)
    decoder_start: str | None = None


def family_of(tokenizer_class: Any, model_type: Any = None) -> tuple[str | None, TokenizerFamily]:
    """The family that a tokenizer_config.json names, or else a config.json; and its name.

    Where neither names one that is known: None, and BERT's.
    """
    name = str(tokenizer_class or "").removesuffix("Fast")
    name = {"MT5Tokenizer": "T5Tokenizer"}.get(name, name)
    if name not in FAMILIES:
        name = MODEL_TYPES.get(str(model_type))
    return name, FAMILIES[name or "BertTokenizer"]


def special_parts(settings: Settings) -> dict[str, str]:
    """The special tokens that settings name: {"pad_token": "[PAD]", ...}."""
    found = {name: settings.get(name) for name in SPECIAL_TOKENS}
    found = {n: t.get("content") if isinstance(t, dict) else t for n, t in found.items()}
    return {name: token for name, token in found.items() if isinstance(token, str)}


def _word_piece(files: Files, settings: Settings) -> Any:
    """One word piece per line (Devlin et al. 2019)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = files[VOCAB_TXT].decode("utf-8").split("\n")
    vocab = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece.rstrip("\r")}
    unknown = {**BERT_SPECIAL, **special_parts(settings)}["unk_token"]
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _albert(files: Files, settings: Settings) -> Any:
    """A unigram model of text without accents, in lower case (Lan et al. 2020)."""
    from tokenizers import normalizers

    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return _unigram(files[SPIECE_MODEL], steps)


def _t5(files: Files, settings: Settings) -> Any:
    """A unigram model (Raffel et al. 2020), after which the sentinels stand in falling order."""
    count = settings.get("extra_ids", T5_SENTINELS)
    if type(count) is not int or not 0 <= count <= 10_000:
        raise ValueError(f"extra_ids is {count!r}")
    return _unigram(files[SPIECE_MODEL], [], [SENTINEL.format(i) for i in reversed(range(count))])


def _unigram(model: bytes, steps: list[Any], more: list[str] | None = None) -> Any:
    """A SentencePiece unigram model; `steps` come before its own normalisation."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    types = sentencepiece_model_pb2.ModelProto.SentencePiece
    if proto.trainer_spec.model_type != sentencepiece_model_pb2.TrainerSpec.UNIGRAM:
        raise ValueError("the SentencePiece model is no unigram model")
    more = more or []
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    pieces += [(token, 0.0) for token in more]
    tokenizer = Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, byte_fallback=False))
    if proto.normalizer_spec.precompiled_charsmap:
        charsmap = proto.normalizer_spec.precompiled_charsmap
        steps = [*steps, normalizers.Precompiled(charsmap)]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    whole = [p.piece for p in proto.pieces if p.type in (types.CONTROL, types.USER_DEFINED)]
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in [*whole, *more]]
    )
    return tokenizer


def sentencepiece_unigram(model: bytes) -> Any:
    """A SentencePiece unigram model that spells in bytes what it does not know, as a
    `tokenizers.Tokenizer` which gives the same ids; not for every row of combining characters,
    which that library normalises by clusters.

    Raises ValueError for a model that it would not give them for.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    usual = rules.add_dummy_prefix and rules.remove_extra_whitespaces and rules.escape_whitespaces
    if trainer.model_type != sentencepiece_model_pb2.TrainerSpec.UNIGRAM:
        raise ValueError("the SentencePiece model is no unigram model")
    if not usual or not trainer.split_by_whitespace or trainer.treat_whitespace_as_suffix:
        raise ValueError("the SentencePiece model treats spaces in a way of its own")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, trainer.unk_id, trainer.byte_fallback))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(rules.precompiled_charsmap),
            # The space alone: there are others that SentencePiece takes for characters.
            normalizers.Replace(Regex("^ +| +$"), ""),
            normalizers.Replace(Regex(" +"), " "),
        ]
    )
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    marks = (kinds.CONTROL, kinds.UNKNOWN, kinds.BYTE)
    unwritten = "|".join(re.escape(p.piece[1:]) for p in proto.pieces if p.type in marks)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
            # A text in which such a piece is written out does not hold it.
            pre_tokenizers.Split(Regex(rf"[\[<](?={unwritten})"), "merged_with_previous"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _gpt2(files: Files, settings: Settings) -> Any:
    """Byte-level byte-pair encoding (Radford et al. 2019)."""
    import tokenizers

    vocab, merges = _read_bpe(files)
    built = tokenizers.ByteLevelBPETokenizer(
        vocab, merges, add_prefix_space=settings.get("add_prefix_space", False)
    )
    return built._tokenizer


def _clip(files: Files, settings: Settings) -> Any:
    """Byte-level byte-pair encoding of lower-cased words with an end mark (Radford et al. 2021)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocab, merges = _read_bpe(files)
    unknown = {**CLIP_SPECIAL, **special_parts(settings)}["unk_token"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=unknown,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _read_bpe(files: Files) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import models

    with tempfile.TemporaryDirectory() as folder:  # the library reads files alone
        paths = [Path(folder) / name for name in (VOCAB_JSON, MERGES_TXT)]
        for path in paths:
            path.write_bytes(files[path.name])
        return models.BPE.read_file(*map(str, paths))


SPECIAL_TOKENS = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)

BERT_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
CLIP_SPECIAL = {
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
}

FAMILIES: dict[str, TokenizerFamily] = {
    "BertTokenizer": TokenizerFamily(
        (VOCAB_TXT,),
        _word_piece,
        BERT_SPECIAL,
        required=("pad_token", "unk_token", "cls_token", "sep_token"),
    ),
    "AlbertTokenizer": TokenizerFamily(
        (SPIECE_MODEL,),
        _albert,
        {
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "bos_token": "[CLS]",
            "eos_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    ),
    "T5Tokenizer": TokenizerFamily(
        (SPIECE_MODEL,),
        _t5,
        {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"},
        decoder_start="pad_token",
    ),
    "GPT2Tokenizer": TokenizerFamily(
        (VOCAB_JSON, MERGES_TXT),
        _gpt2,
        dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
        decoder_start="bos_token",
    ),
    "CLIPTokenizer": TokenizerFamily(
        (VOCAB_JSON, MERGES_TXT), _clip, CLIP_SPECIAL, decoder_start="bos_token"
    ),
}

# What a config.json's model_type means, where the folder names no tokenizer.
MODEL_TYPES = {
    "bert": "BertTokenizer",
    "albert": "AlbertTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "gpt2": "GPT2Tokenizer",
    "clip": "CLIPTokenizer",
}
