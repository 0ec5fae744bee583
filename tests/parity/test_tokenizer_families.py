"""Every family's token ids equal those of `transformers`, whichever files its folder has."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from mmjax.data.tokenizer_export import transformers_files
from mmjax.data.tokenizers import clip as clip_ids
from mmjax.data.tokenizers import load_tokenizer, train_tokenizer
from mmjax.errors import UserError

SPECIAL = ("pad", "unk", "cls", "sep", "bos", "eos", "mask")

NASTY = [
    "",
    " ",
    "   two   spaces \u00a0 and\u3000wide ",
    "\n\t\r\n",
    "\u0000 control \u0007 \u200b zero \ufeff width \u2028 line",
    "lone \u0301 accent, e\u0301 and é, \u0e33 ",
    "ＦＵＬＬ　ｗｉｄｔｈ１２３！？ ﬁ ① ㍿",
    "😀😀 👨‍👩‍👧 🏳️‍🌈 👍🏽!!",
    "Café NAÏVE İstanbul ẞ ΣΊΣΥΦΟΣ",
    "我今天和狗去了湖边，真的！[订单x] 龘𠮷 #E-s[数字x]",
    "``quoted'' don't I'LL we've $5.00 3,000 12,",
    "typed [CLS] [SEP] [MASK] <s> </s> <pad> <unk> <extra_id_0> <extra_id_99><|endoftext|> x",
    "نص عربي हिन्दी ไทย 한국어",
    "a" * 300,
    "▁ lower ▁one block",
    "\U000e0001\U0010ffff\ud7ff\ue000",
]


@pytest.fixture(scope="module")
def texts(shared_data) -> list[str]:
    """A hundred of each kind, and what no one expects."""
    dialogues = json.loads((shared_data("photochat") / "dev" / "dev_00.json").read_text())
    photochat = [turn["message"] for dialogue in dialogues for turn in dialogue["dialogue"]]
    memes = (shared_data("chinese_memes") / "captions.jsonl").read_text("utf-8").splitlines()
    chinese = json.loads((shared_data("lccc_toy") / "toy_data.json").read_text("utf-8"))
    service = shared_data("jddc_raw_sample") / "chat_0.1per.txt"
    masked = [line.split("\t")[-1] for line in service.read_text("utf-8").splitlines()]
    return [
        *photochat[:100],
        *(json.loads(line)["caption"] for line in memes[:100]),
        *(turn for dialogue in chinese["valid"][:40] for turn in dialogue),
        *[text for text in masked if "[" in text][:100],
    ]


# One function per family: trains a small one and writes the folder in the family's own files.


def bert(folder: Path, texts: list[str], *, lower: bool = True) -> dict:
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=lower)
    tokenizer.train_from_iterator(texts, vocab_size=800, show_progress=False)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}


def bert_cased(folder: Path, texts: list[str]) -> dict:
    return bert(folder, texts, lower=False)


def albert(folder: Path, texts: list[str]) -> dict:
    names = {"pad": "<pad>", "unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]"}
    train_spiece(folder, [text.lower() for text in texts], names, control_symbols=["[MASK]"])
    return {"tokenizer_class": "AlbertTokenizer"}


def albert_with_accents(folder: Path, texts: list[str]) -> dict:
    albert(folder, texts)
    return {"tokenizer_class": "AlbertTokenizer", "keep_accents": True, "do_lower_case": False}


def t5(folder: Path, texts: list[str]) -> dict:
    names = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    train_spiece(folder, texts, names, bos_id=-1)
    return {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}


def mt5(folder: Path, texts: list[str]) -> dict:
    """Named by the model's config.json alone."""
    t5(folder, texts)
    (folder / "config.json").write_text(json.dumps({"model_type": "mt5"}))
    return {}


def gpt2(folder: Path, texts: list[str]) -> dict:
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=800, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.save_model(str(folder))
    return {"tokenizer_class": "GPT2Tokenizer"}


def gpt2_with_padding(folder: Path, texts: list[str]) -> dict:
    """A token that someone added beside the vocabulary."""
    config = gpt2(folder, texts)
    return {**config, "pad_token": "[PAD]", "add_prefix_space": True}


def clip(folder: Path, texts: list[str]) -> dict:
    special = ["<|startoftext|>", "<|endoftext|>"]
    suffix = {"end_of_word_suffix": "</w>"}
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=special[1], **suffix))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **suffix,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model.save(str(folder))
    return {"tokenizer_class": "CLIPTokenizer"}


def train_spiece(
    folder: Path, texts: Iterable[str], names: dict[str, str], **options: object
) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=800,
        hard_vocab_limit=False,
        character_coverage=0.99,  # some characters are unknown
        minloglevel=2,
        **{f"{name}_id": i for i, name in enumerate(names)},
        **{f"{name}_piece": piece for name, piece in names.items()},
        **options,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


FAMILIES = (bert, bert_cased, albert, albert_with_accents, t5, mt5, gpt2, gpt2_with_padding, clip)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def folders(request, texts, tmp_path_factory):
    """The family's own files, the same as `transformers` writes them, and its tokenizer."""
    own, saved = (tmp_path_factory.mktemp(name) for name in ("own", "saved"))
    config = request.param(own, texts[::2])
    if config:
        (own / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(own)
    theirs.save_pretrained(saved)
    assert (saved / "tokenizer.json").is_file()
    return own, saved, theirs


@pytest.mark.parametrize("form", ["own files", "tokenizer.json", "saved again"])
def test_ids_equal(folders, form, texts, tmp_path):
    own, saved, theirs = folders
    ours = load_tokenizer(saved if form == "tokenizer.json" else own)
    if form == "saved again":
        ours.save(tmp_path)
        fingerprint, ours = ours.fingerprint, load_tokenizer(tmp_path)
        assert ours.fingerprint == fingerprint
    unknown = 0
    for text in [*texts, *NASTY]:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(ours.encode(text), np.asarray(expected, np.int32), text)
        unknown += expected.count(theirs.unk_token_id)
    assert unknown  # the rare is met too
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize("form", ["own files", "tokenizer.json"])
def test_special_ids_equal(folders, form):
    own, saved, theirs = folders
    ours = load_tokenizer(own if form == "own files" else saved)
    for name in SPECIAL:
        expected = getattr(theirs, f"{name}_token_id")
        assert ours._special.get(f"{name}_token") == expected, name
        if expected is not None:
            assert getattr(ours, f"{name}_id") == expected
    if "<extra_id_0>" in theirs.get_vocab():
        expected = [theirs.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(100)]
        assert ours.sentinel_ids == tuple(expected)
        assert ours.decoder_start_id == theirs.pad_token_id


def test_t5s_ids_are_those_of_the_library_that_the_model_was_trained_with(texts, tmp_path):
    config = t5(tmp_path, texts[::2])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    ours = load_tokenizer(tmp_path)
    same = [ours.encode(text).tolist() == processor.encode(text) for text in texts]
    assert np.mean(same) > 0.99


def as_exported(tokenizer, folder: Path) -> transformers.PreTrainedTokenizerBase:
    """What `transformers` makes of an exported folder with this tokenizer."""
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for name, content in transformers_files(tokenizer, 64, truncation_side="left").items():
        (folder / name).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_an_exported_tokenizer_gives_the_same_ids(folders, texts, tmp_path):
    own, _, _ = folders
    ours = load_tokenizer(own)
    theirs = as_exported(ours, tmp_path)
    for text in [*texts, *NASTY]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(ours.encode(text), np.asarray(ids, np.int32), text)
    for name, token in ours.special_ids.items():
        assert getattr(theirs, f"{name}_id") == token, name
    assert load_tokenizer(tmp_path).encode(NASTY[6]).tolist() == ours.encode(NASTY[6]).tolist()


def test_an_exported_sentencepiece_model_gives_the_same_ids(texts, tmp_path):
    ours = train_tokenizer(texts[::2], 600, tmp_path)
    theirs = as_exported(ours, tmp_path)
    rng = np.random.default_rng(0)
    letters = ["".join(map(chr, rng.integers(32, 0x250, 12))) for _ in range(200)]
    high = ["".join(map(chr, rng.integers(0x3000, 0xD7FF, 8))) for _ in range(200)]
    for text in [*texts, *NASTY, *letters, *high, "<0x41> <unk> [UNK] [PAD]", "\u0085 a"]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(ours.encode(text), np.asarray(ids, np.int32), repr(text))
    long = texts[0] * 40
    expected = clip_ids(ours.encode(long), 64, ours.cls_id, ours.sep_id)
    assert theirs(long, truncation=True)["input_ids"] == expected.tolist()


def test_a_sentencepiece_model_without_the_same_ids_is_not_exported(texts, tmp_path):
    few = [text for text in texts if text.isascii()]
    train_spiece(tmp_path, few, {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, model_type="bpe")
    (tmp_path / "spiece.model").rename(tmp_path / "other.model")
    with pytest.raises(UserError, match="no unigram model"):
        transformers_files(load_tokenizer(tmp_path), 64)
