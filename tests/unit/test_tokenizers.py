"""What a tokenizer promises wherever it comes from."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from mmjax.data.tokenizers import clip, load_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.pretrained import PretrainedFolder
from mmjax.tasks.towers import text_tower

TEXTS = [
    "We went to the lake with the dog.",
    "Do you want to see a photo of the dog at the lake?",
    "Yes please, send the photo!",
    "今天天气很好，我们去湖边。",
    "So happy 😀",
] * 4

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "Hello", "wor", "##ld", "世", "!"]

# On which the library does not raise an Exception.
PANICS = json.dumps(
    {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAA="},
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    }
)


@pytest.fixture
def wordpiece_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return tmp_path


def test_wordpiece_from_a_vocabulary_file(wordpiece_folder):
    tokenizer = load_tokenizer(wordpiece_folder)
    assert tokenizer.encode("Hello world 世!").tolist() == [5, 7, 8, 9, 10]
    assert tokenizer.encode("unknowable").tolist() == [1]
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 2, 3)
    assert tokenizer.vocab_size == len(VOCAB)


def test_lower_casing_follows_the_folder(wordpiece_folder):
    lowered = load_tokenizer(wordpiece_folder)
    (wordpiece_folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_tokenizer(wordpiece_folder)
    assert lowered.encode("Hello").tolist() == [5]
    assert cased.encode("Hello").tolist() == [6]
    assert lowered.fingerprint != cased.fingerprint


def test_a_saved_padding_or_truncation_is_not_applied(tmp_path):
    import tokenizers

    hub = tokenizers.BertWordPieceTokenizer({piece: i for i, piece in enumerate(VOCAB)})
    hub.enable_truncation(3)
    hub.enable_padding(length=8)
    hub.save(str(tmp_path / "tokenizer.json"))
    ids = load_tokenizer(tmp_path).encode("hello hello hello hello hello")
    assert ids.tolist() == [5] * 5


def test_tokenizer_json_comes_before_the_other_forms(wordpiece_folder):
    import tokenizers

    vocab = {piece: i for i, piece in enumerate([*VOCAB, "extra"])}
    tokenizers.BertWordPieceTokenizer(vocab).save(str(wordpiece_folder / "tokenizer.json"))
    assert load_tokenizer(wordpiece_folder).vocab_size == len(VOCAB) + 1


def test_training_is_deterministic_and_the_special_pieces_come_first(tmp_path):
    first = train_tokenizer(TEXTS, 400, tmp_path / "a")
    second = train_tokenizer(iter(TEXTS), 400, tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert (first.pad_id, first.cls_id, first.sep_id) == (0, 2, 3)
    assert 260 < first.vocab_size <= 400
    ids = first.encode(TEXTS[0])
    assert ids.dtype == np.int32
    assert ids.min() > 3 and ids.max() < first.vocab_size


@pytest.mark.parametrize("text", ["湖边 😀", "Ωmega ﬁ", "never seen: žluťoučký 龘", "🏳️‍🌈"])
def test_a_trained_tokenizer_has_no_unknown_text(text, tmp_path):
    ids = train_tokenizer(TEXTS, 400, tmp_path).encode(text)
    assert len(ids) and 1 not in ids


@pytest.mark.parametrize("texts", [["a"], ["hi"], ["😀"], ["same", "same"], ["好"], ["x" * 9000]])
def test_tiny_corpora_train(texts, tmp_path):
    assert len(train_tokenizer(texts, 300, tmp_path).encode(texts[0])) > 0


def test_more_characters_than_pieces_train(tmp_path):
    texts = ["".join(map(chr, range(0x4E00 + i, 0x4E00 + i + 40))) for i in range(0, 4000, 40)]
    tokenizer = train_tokenizer(texts, 500, tmp_path)
    assert tokenizer.vocab_size <= 500
    assert 1 not in tokenizer.encode(texts[50])


def test_a_typed_special_piece_is_text(tmp_path):
    ids = train_tokenizer(TEXTS, 400, tmp_path).encode("[CLS] [PAD]")
    assert not set(ids.tolist()) & {0, 1, 2, 3}


@pytest.fixture(params=["wordpiece", "trained"])
def tokenizer(request, tmp_path, wordpiece_folder):
    if request.param == "wordpiece":
        return load_tokenizer(wordpiece_folder)
    return train_tokenizer(TEXTS, 400, tmp_path / "trained")


@pytest.mark.parametrize("copy", ["saved", "pickled"])
def test_a_copy_encodes_the_same_and_has_the_same_fingerprint(tokenizer, copy, tmp_path):
    if copy == "saved":
        tokenizer.save(tmp_path / "copy" / "deep")
        other = load_tokenizer(tmp_path / "copy" / "deep")
    else:
        other = pickle.loads(pickle.dumps(tokenizer))
    assert other.fingerprint == tokenizer.fingerprint
    assert other.vocab_size == tokenizer.vocab_size
    for text in TEXTS[:5]:
        np.testing.assert_array_equal(other.encode(text), tokenizer.encode(text))


def test_an_empty_text_and_half_an_emoji_are_encoded(tokenizer):
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int32
    assert len(tokenizer.encode("broken \ud83d end")) > 0


@pytest.mark.parametrize(
    ("n", "keep", "expected"),
    [
        (0, "end", [101, 102]),
        (3, "end", [101, 0, 1, 2, 102]),
        (3, "start", [101, 0, 1, 2, 102]),
        (4, "end", [101, 1, 2, 3, 102]),
        (4, "start", [101, 0, 1, 2, 102]),
    ],
)
def test_clip_frames_and_keeps_the_asked_side(n, keep, expected):
    row = clip(np.arange(n, dtype=np.int32), 5, 101, 102, keep)
    assert row.tolist() == expected
    assert row.dtype == np.int32


def test_clip_of_length_two_is_the_frame_alone_for_both_sides():
    for keep in ("end", "start"):
        assert clip(np.arange(9), 2, 101, 102, keep).tolist() == [101, 102]


def test_clip_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="max_length=1"):
        clip(np.arange(3), 1, 101, 102)
    with pytest.raises(ValueError, match="middle"):
        clip(np.arange(3), 9, 101, 102, "middle")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: tokenizer.json is needed, or vocab.txt, or a SentencePiece"),
        ({"tokenizer.json": "{"}, "tokenizer.json cannot be read"),
        ({"tokenizer.json": '{"model": {"type": "BPE"}}'}, "tokenizer.json cannot be read"),
        ({"tokenizer.json": PANICS}, "tokenizer.json cannot be read as a tokenizer .Precompiled"),
        ({"spiece.model": "nonsense"}, "spiece.model cannot be read"),
        ({"vocab.txt": "a\nb\n"}, r"no token '\[PAD\]'|cannot be read"),
        (
            {"vocab.txt": "a\n", "tokenizer_config.json": "{"},
            "tokenizer_config.json cannot be read",
        ),
        ({"vocab.txt": "a\n", "tokenizer_config.json": "[]"}, "_config.json holds no JSON object"),
        ({"vocab.txt": "a\n", "tokenizer_config.json": "[" * 99_999}, "cannot be read as JSON"),
        ({"vocab.txt": "a\n", "added_tokens.json": "{'a'}"}, "added_tokens.json cannot be read"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokenizer_class", "files", "message"),
    [
        ("BertTokenizer", {"vocab.txt": "a\n[UNK]\n"}, r"has no token '\[PAD\]', .*its pad_token"),
        ("T5TokenizerFast", {}, "tokenizer.json is needed, or spiece.model"),
        ("T5Tokenizer", {"spiece.model": "nonsense"}, "spiece.model cannot be read"),
        ("AlbertTokenizer", {"spiece.model": ""}, "spiece.model cannot be read"),
        ("GPT2Tokenizer", {"vocab.json": "{}"}, "needed, or vocab.json and merges.txt"),
        ("GPT2Tokenizer", {"vocab.json": "{", "merges.txt": ""}, "vocab.json cannot be read"),
        ("GPT2Tokenizer", {"vocab.json": '{"a": 0}', "merges.txt": "a b\n"}, "cannot be read"),
        ("GPT2Tokenizer", {"vocab.json": '{"a": 0}', "merges.txt": ""}, "its unk_token"),
        ("CLIPTokenizer", {"vocab.json": '{"a": 0}', "merges.txt": ""}, "its unk_token"),
    ],
)
def test_a_damaged_or_incomplete_folder_of_a_family_is_refused(
    tokenizer_class, files, message, tmp_path
):
    config = {"tokenizer_class": tokenizer_class}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_a_file_too_large_is_refused_unread(wordpiece_folder, monkeypatch):
    monkeypatch.setattr("mmjax.data.tokenizers.MAX_FILE_BYTES", 20)
    with pytest.raises(UserError, match=r"vocab\.txt has \d+ bytes; no tokenizer's file has more"):
        load_tokenizer(wordpiece_folder)


def test_a_token_that_is_not_there_is_named_when_it_is_needed(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "a": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("aa<|endoftext|>").tolist() == [1, 1, 0]
    assert tokenizer.eos_id == tokenizer.decoder_start_id == 0
    for name in ("pad", "cls", "sep", "mask"):
        with pytest.raises(UserError, match=f"no {name}_token, which is needed here. Name one"):
            getattr(tokenizer, f"{name}_id")
    with pytest.raises(UserError, match=r"no sentinels .*Use the tokenizer of a T5"):
        _ = tokenizer.sentinel_ids


def test_an_encoder_has_nothing_to_begin_a_decoders_input_with(wordpiece_folder):
    with pytest.raises(UserError, match="Use the tokenizer of a model that generates text"):
        _ = load_tokenizer(wordpiece_folder).decoder_start_id


def test_tokens_added_beside_the_vocabulary_keep_their_numbers(wordpiece_folder):
    n = len(VOCAB)
    (wordpiece_folder / "added_tokens.json").write_text(json.dumps({"<b>": n + 1, "<a>": n}))
    tokenizer = load_tokenizer(wordpiece_folder)
    assert tokenizer.encode("hello <b><a>").tolist() == [5, n + 1, n]
    assert tokenizer.vocab_size == n + 2
    (wordpiece_folder / "added_tokens.json").write_text(json.dumps({"<b>": n + 1}))
    with pytest.raises(UserError, match=f"'<b>' would be number {n}, but .* says {n + 1}"):
        load_tokenizer(wordpiece_folder)


def test_the_size_is_the_rows_that_an_embedding_needs(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "a": 9}))
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_tokenizer(tmp_path).vocab_size == 10


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_training_refuses_no_text_and_too_small_a_vocabulary(tmp_path):
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(["", "  \n"], 400, tmp_path)
    with pytest.raises(UserError, match="too small"):
        train_tokenizer(TEXTS, 100, tmp_path)


def test_special_tokens_may_have_other_names(wordpiece_folder):
    names = {"cls_token": "hello", "sep_token": {"content": "!"}, "pad_token": "[PAD]"}
    (wordpiece_folder / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(wordpiece_folder)
    assert (tokenizer.cls_id, tokenizer.sep_id) == (5, 10)


def test_a_tokenizer_with_more_tokens_than_the_encoders_table_is_refused(tmp_path):
    config = {
        "model_type": "bert",
        "vocab_size": 100,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    tokenizer = train_tokenizer(TEXTS, 400, tmp_path)
    folder = PretrainedFolder(tmp_path, config, tensors=None)
    message = f"has {tokenizer.vocab_size} tokens, the encoder's table 100: they do not belong"
    with pytest.raises(UserError, match=message):
        text_tower("text", "weights", folder, tokenizer)
