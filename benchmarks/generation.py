"""Writing answers with a GPT-2, in mmjax and in `transformers`, each with its cache.

    python -m benchmarks.generation --out=benchmarks/results/generation.json

The same weights, prompts without padding, and as many new tokens from both, since none of them is
an end: greedily and with beams, for one prompt and for many. Reading the prompts is part of it. The
tokens that count are those of the answers, one for each prompt, and not those of all beams.

Each contender has a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from flax import linen as nn

from benchmarks import document
from benchmarks.apart import Apart
from benchmarks.contenders import Run
from benchmarks.timing import alternate, compare
from mmjax.decoding.generate import generate
from mmjax.decoding.generator import generator
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import CAUSAL_PRESETS
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained import load_folder, load_transformer, transformer_config
from mmjax.pretrained.families import FAMILIES

REFERENCE = "transformers"
PRESETS = [name for name in CAUSAL_PRESETS if name.startswith("gpt2")]


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.generation")
    parser.add_argument("--presets", type=_names, default=["gpt2-6x512", "gpt2-small"])
    parser.add_argument("--batch_sizes", type=_sizes, default=[1, 32])
    parser.add_argument("--beams", type=_sizes, default=[1, 5])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens that are written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    _check(arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    return document.run(
        "generation",
        argv,
        ("torch", "transformers", "numpy"),
        settings,
        lambda: measure(arguments),
        arguments.out,
    )


def _names(text: str) -> list[str]:
    return text.split(",")


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _check(arguments: argparse.Namespace) -> None:
    for name in arguments.presets:
        if name not in PRESETS:
            raise UserError(f"--presets names {name!r}: there are {', '.join(PRESETS)}.")
    sizes = [*arguments.batch_sizes, *arguments.beams, arguments.prompt, arguments.new]
    if min(*sizes, arguments.rounds) < 1:
        raise UserError("sizes and --rounds must be at least 1.")
    if (backend := jax.default_backend()) != "cpu":
        raise UserError(
            f"PyTorch computes on the CPU here and JAX on {backend}: set JAX_PLATFORMS=cpu."
        )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case for each network, number of prompts and of beams."""
    cases, new = [], arguments.new
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            save_random(preset, folder)
            makers = {"mmjax": by_mmjax, REFERENCE: by_transformers}
            apart = {
                name: stack.enter_context(Apart(partial(_part, make, folder)))
                for name, make in makers.items()
            }
            for B in arguments.batch_sizes:
                for beams in arguments.beams:
                    part = (B, arguments.prompt, new, beams)
                    runs = {name: partial(p.run, part, 1) for name, p in apart.items()}
                    seconds = alternate(runs, rounds=arguments.rounds)[0]
                    how = "greedily" if beams == 1 else f"{beams} beams"
                    cases.append(
                        {
                            "name": f"{preset}, {B} x {new} tokens, {how}",
                            "unit": "tokens per second",
                            "clock": "the clock on the wall",
                            **compare(seconds, amount=B * new, reference=REFERENCE),
                        }
                    )
    return cases


def _part(make: Any, folder: str, part: tuple[int, ...]) -> Run:
    return make(folder, *part)


def save_random(preset: str, folder: str | Path) -> None:
    """A GPT-2 of the preset's sizes with initial weights, as `transformers` saves it."""
    family = FAMILIES["gpt2"][0]
    described = transformers.AutoConfig.for_model(**family.describe(CAUSAL_PRESETS[preset]))
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(described).save_pretrained(folder)


def prompts(vocab_size: int, batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, (batch, length), np.int32)


def by_mmjax(folder: str | Path, batch: int, prompt: int, new: int, beams: int) -> Run:
    """What writes answers, int32 [batch, new]."""
    opened = load_folder(folder)
    config = transformer_config(opened, TransformerConfig)
    module, ids = Decoder(DecoderConfig(config)), prompts(config.vocab_size, batch, prompt)
    text = {"text": {"ids": ids, "mask": np.ones(ids.shape, bool)}}
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), text)
    params, _ = load_transformer(opened, nn.unbox(shapes)["params"]["text"], TransformerConfig)
    options = DecodingOptions(max_new_tokens=new, beams=beams)

    @jax.jit
    def write(params: Any, batch: Any) -> jax.Array:
        text = batch["text"]
        variables = {"params": {"text": params}}
        model = generator(module, variables, batch, text["ids"], text["mask"])
        # No word has this number: nothing ends early.
        return generate(model, options, eos_id=config.vocab_size, pad_id=0).ids[:, 0]

    return lambda: jax.block_until_ready(write(params, text))


def by_transformers(folder: str | Path, batch: int, prompt: int, new: int, beams: int) -> Run:
    """What writes answers, int64 [batch, new]."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.from_numpy(prompts(model.config.vocab_size, batch, prompt)).long()
    model.generation_config = transformers.GenerationConfig()
    config = transformers.GenerationConfig(
        max_new_tokens=new,
        num_beams=beams,
        do_sample=False,
        use_cache=True,
        eos_token_id=model.config.vocab_size,
        pad_token_id=0,
    )
    mask = torch.ones_like(ids)

    def write() -> torch.Tensor:
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, generation_config=config)
        return out[:, prompt:]

    return write


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.generation: {error}")
