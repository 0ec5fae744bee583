"""A decoder as a model of `transformers`, with a card that explains how it is fed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mmjax.data.dialogue_marks import REWRITE, SPEAKERS
from mmjax.data.tokenizer_export import transformers_files
from mmjax.data.tokenizer_families import TOKENIZER_JSON
from mmjax.data.tokenizer_files import TOKENIZER_CONFIG, FamilyTokenizer
from mmjax.errors import UserError
from mmjax.models.decoder import DecoderConfig
from mmjax.pretrained.exported import ModelFolder
from mmjax.pretrained.writing import transformer_content
from mmjax.tasks.generation_examples import GenerationRows

OWN_KEY = "mmjax"  # of config.json: what is to be known beside the network


def generation_folders(
    config: DecoderConfig,
    params: Mapping[str, Any],
    rows: GenerationRows,
    goal: str,
    words: Bool[np.ndarray, " V"],
) -> list[ModelFolder]:
    """The decoder of texts, which writes `words` and no other tokens.

    Raises UserError for one that sees images, copies, or reads in both directions.
    """
    for has, what in (
        (config.sees_images, "sees images"),
        (config.copies, "copies what it reads"),
        (config.prefix_lm, "reads in both directions (config.model.prefix_lm)"),
    ):
        if has:
            raise UserError(
                f"a decoder that {what} has no form in Hugging Face's format: export one that does "
                "not."
            )
    described, tensors = transformer_content(config.text, params["text"])
    tokenizer, marks, options = with_marks(rows), rows.marks, rows.options
    described |= {
        "bos_token_id": marks.begin,
        "eos_token_id": marks.end,
        "pad_token_id": marks.pad,
        OWN_KEY: {
            "task": goal,
            "speakers": list(marks.speakers),
            "rewrite": marks.rewrite,
            "prompt_max_length": options.prompt_max_length,
            "knowledge_max_length": options.knowledge_max_length if options.knowledge else 0,
            "max_new_tokens": options.decoding.max_new_tokens,
            "silent": np.flatnonzero(~words).tolist(),
        },
    }
    files = transformers_files(tokenizer, options.prompt_max_length, truncation_side="left")
    return [ModelFolder("decoder", described, tensors, _CARD, files)]


def with_marks(rows: GenerationRows) -> FamilyTokenizer:
    """The tokenizer with the marks that it lacks as tokens of its own."""
    backend, added = rows.tokenizer.to_tokenizers(), rows.marks.added
    backend.add_special_tokens(list(added))
    wrong = [token for token, number in added.items() if backend.token_to_id(token) != number]
    if wrong:
        raise UserError(
            f"the tokenizer cannot be exported with {', '.join(wrong)}: its numbers have gaps. "
            "Train with the tokenizer of another model, or with one made of the dialogues."
        )
    special = {name: backend.id_to_token(i) for name, i in rows.tokenizer.special_ids.items()}
    settings = json.dumps(special, sort_keys=True).encode()
    return FamilyTokenizer({TOKENIZER_JSON: backend.to_str().encode(), TOKENIZER_CONFIG: settings})


_CARD = f"""\
Writes what is said next in a dialogue, or what its last message means (`task` of `mmjax` in
config.json: `response` or `rewrite`). It is fed with

    begin, tokens of facts, speaker, tokens of a turn, speaker, tokens of a turn, ..., mark

begin is `bos_token_id`; speaker is `{SPEAKERS[0]}` before the turns of the first speaker (0) and
`{SPEAKERS[1]}` before those of the others; mark is the speaker who answers, or `{REWRITE}`. Of a
longer dialogue the last tokens stay, so that with the facts there are `prompt_max_length - 2`
between begin and mark. Facts are what is known of the products of the dialogue, "attribute: value
;" each, of which those are read that fit whole into the `knowledge_max_length` tokens that those
before leave (0: the model was trained without). A token's type is the speaker of its turn, that of
begin and of facts is begin; that of the mark, and of all that is written, is the mark. `silent`
tokens are never written.

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
own = model.config.mmjax
answers = 1  # who does, where a response is written
facts = []  # ("attribute", "value"), where the model was trained with them
turns = [(0, "..."), (1, "..."), (0, "...")]

known, ids, types = [], [], []
for name, value in facts:
    new = tokenizer(f"{{name.strip()}}: {{value.strip()}} ;", add_special_tokens=False).input_ids
    known += new if len(known) + len(new) <= own["knowledge_max_length"] else []
for speaker, text in turns:
    mark = own["speakers"][min(speaker, 1)]
    new = [mark, *tokenizer(text.strip(), add_special_tokens=False).input_ids]
    ids, types = [*ids, *new], [*types, *[mark] * len(new)]
begin = model.config.bos_token_id
room = own["prompt_max_length"] - 2 - len(known)
mark = own["rewrite"] if own["task"] == "rewrite" else own["speakers"][min(answers, 1)]
ids = [begin, *known, *ids[-room:], mark]
types = [begin, *[begin] * len(known), *types[-room:], mark]
written = []
while len(written) < own["max_new_tokens"]:
    given = {{"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}}
    logits = model(**given).logits[0, -1]
    logits[own["silent"]] = -torch.inf
    word = int(logits.argmax())
    if word == model.config.eos_token_id:
        break
    ids, types, written = [*ids, word], [*types, mark], [*written, word]
text = tokenizer.decode(written)
```
"""
