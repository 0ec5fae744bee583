"""Greedy decoding and beam search write what `transformers` writes, with and without an encoder."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mmjax.decoding.generate import generate
from mmjax.decoding.generator import Generator
from mmjax.decoding.options import DecodingOptions
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.transformer import Transformer, TransformerConfig
from tests.parity.oracle import load, random_model, to_torch

VOCAB, START, PAD, NEW = 97, 0, 1, 12
LENGTHS = np.array([9, 6, 2])

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
T5 = {
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": START,
}

CASES = {
    "greedy": {},
    "greedy, constrained": {"no_repeat_ngram": 2, "min_new_tokens": 9, "allowed": True},
    "beams": {"beams": 4, "answers": 4},
    "longer is better": {"beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
    "shorter is better, the first to end": {
        "beams": 3,
        "length_penalty": -0.7,
        "early_stopping": True,
        "answers": 3,
    },
    "beams, constrained": {
        "beams": 3,
        "no_repeat_ngram": 3,
        "min_new_tokens": 5,
        "allowed": True,
        "length_penalty": 0.4,
    },
}
# What differs in an encoder-decoder: the prompt, the memory, relative positions.
T5_CASES = ("greedy", "beams", "beams, constrained")


def texts() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(2, VOCAB, (len(LENGTHS), LENGTHS.max()))
    return ids.astype(np.int32), np.arange(LENGTHS.max()) < LENGTHS[:, None]


def padded_left(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(mask, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(mask, order, 1)


def not_allowed() -> np.ndarray:
    return np.random.default_rng(1).random(VOCAB) < 0.3


def written_by_transformers(model: torch.nn.Module, case: dict, eos: int, *inputs: np.ndarray):
    """(ids [B, N, T], scores [B, N] or None)"""
    case = dict(case)
    banned = not_allowed()
    banned[eos % VOCAB] = False
    names = {"beams": "num_beams", "answers": "num_return_sequences"}
    names["no_repeat_ngram"] = "no_repeat_ngram_size"
    given = {"suppress_tokens": np.flatnonzero(banned).tolist()} if case.pop("allowed", 0) else {}
    given |= {names.get(name, name): value for name, value in case.items()}
    config = GenerationConfig(
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        return_dict_in_generate=True,
        output_scores=True,
        **given,
    )
    ids, mask = to_torch(*inputs)
    model.generation_config = GenerationConfig()
    out = model.generate(ids, attention_mask=mask, generation_config=config)
    new = out.sequences[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :]
    new = torch.nn.functional.pad(new, (0, NEW - new.shape[1]), value=PAD)
    scores = getattr(out, "sequences_scores", None)
    shape = (len(ids), -1)
    scores = None if scores is None else scores.numpy().reshape(shape)
    return new.numpy().reshape(*shape, NEW), scores


def written_by_mmjax(model, params, case: dict, eos: int, *inputs: np.ndarray):
    case = dict(case)
    allowed = ~not_allowed() if case.pop("allowed", 0) else None
    if allowed is not None:
        allowed[eos] = True
    options = DecodingOptions(max_new_tokens=NEW, **case)
    return jax.jit(_written, static_argnums=(0, 2, 3))(
        model, params, options, eos, allowed, *inputs
    )


def _written(model, params, options, eos, allowed, ids, mask):
    def apply(function, *given, **sizes):
        return model.apply({"params": params}, *given, **sizes, method=function)

    if isinstance(model, EncoderDecoder):
        begin = functools.partial(apply, EncoderDecoder.begin, ids, mask, START)
        prompt = jnp.full((len(ids), 1), START)
        how = Generator(
            lambda branches, steps: begin(branches=branches, steps=steps),
            functools.partial(apply, EncoderDecoder.step),
            prompt,
            jnp.ones(prompt.shape, bool),
        )
    else:

        def begin(branches, steps):
            x, cache = apply(Transformer.begin, ids, mask, branches=branches, steps=steps)
            return apply(Transformer.logits, x[:, None])[:, 0], cache

        def step(cache, ids):
            x, cache = apply(Transformer.step, cache, ids)
            return apply(Transformer.logits, x), cache

        how = Generator(begin, step, ids, mask)
    return generate(how, options, eos_id=eos, pad_id=PAD, allowed=allowed)


def assert_equal(ours, theirs):
    ids, scores = theirs
    np.testing.assert_array_equal(ours.ids, ids)
    if scores is not None:
        np.testing.assert_allclose(ours.scores, scores, rtol=1e-4, atol=1e-4)


def common_word(model: torch.nn.Module, *inputs: np.ndarray) -> int:
    """One that ends some answers early when it is the end, and not all at the first word."""
    never = 10 * VOCAB
    ids, _ = written_by_transformers(model, CASES["greedy"], never, *inputs)
    later = [word for row in ids[:, 0] for word in row[3:] if word not in ids[:, 0, 0]]
    return int(later[0])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = random_model(GPT2LMHeadModel, GPT2Config(vocab_size=VOCAB, **GPT2), 3, folder)
    inputs = padded_left(*texts())
    return theirs, *load(folder, TransformerConfig, *inputs), common_word(theirs, *inputs)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(vocab_size=VOCAB, **T5)
    theirs = random_model(T5ForConditionalGeneration, config, 4, folder)
    model = load(folder, EncoderDecoderConfig, *texts(), *texts())
    return theirs, *model, common_word(theirs, *texts())


@pytest.mark.parametrize("case", CASES)
def test_a_decoder_writes_the_same_whichever_side_prompts_are_padded_on(gpt2, case):
    theirs, model, params, eos = gpt2
    expected = written_by_transformers(theirs, CASES[case], eos, *padded_left(*texts()))
    assert_equal(written_by_mmjax(model, params, CASES[case], eos, *texts()), expected)
    if case in ("greedy", "beams, constrained"):
        left = padded_left(*texts())
        assert_equal(written_by_mmjax(model, params, CASES[case], eos, *left), expected)


def test_a_single_prompt_is_no_other_than_in_a_batch(gpt2):
    theirs, model, params, eos = gpt2
    ids, mask = (x[1:2] for x in texts())
    real = ids[:, : mask.sum()], mask[:, : mask.sum()]
    expected = written_by_transformers(theirs, {}, eos, *real)
    assert_equal(written_by_mmjax(model, params, {}, eos, ids, mask), expected)


@pytest.mark.parametrize("case", T5_CASES)
def test_an_encoder_decoder_writes_the_same(t5, case):
    theirs, model, params, eos = t5
    expected = written_by_transformers(theirs, CASES[case], eos, *texts())
    assert_equal(written_by_mmjax(model, params, CASES[case], eos, *texts()), expected)


def test_the_answers_compared_end_at_different_places(gpt2, t5):
    """Else nothing were said of how an answer ends."""
    for (theirs, *_, eos), inputs in ((gpt2, padded_left(*texts())), (t5, texts())):
        for case in ("greedy", "beams"):
            ids, _ = written_by_transformers(theirs, CASES[case], eos, *inputs)
            ends = {int(np.argmax(row == eos)) for row in ids.reshape(-1, NEW)}
            assert len(ends) > 1, (case, ids)
