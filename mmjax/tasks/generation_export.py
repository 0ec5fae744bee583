"""A decoder as a model of `transformers`, with a card that explains how it is fed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
    config: DecoderConfig, params: Mapping[str, Any], rows: GenerationRows, goal: str
) -> list[ModelFolder]:
    """The decoder of texts. Raises UserError for one that sees images."""
    if config.sees_images:
        raise UserError(
            "a decoder that sees images has no form in Hugging Face's format: export one that "
            "reads texts alone."
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
            "max_new_tokens": options.decoding.max_new_tokens,
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

    begin, speaker, tokens of a turn, speaker, tokens of a turn, ..., mark

begin is `bos_token_id`; speaker is `{SPEAKERS[0]}` before the turns of the first speaker and
`{SPEAKERS[1]}` before those of the others; mark is the speaker who answers, or `{REWRITE}`. Of a
longer dialogue the last `prompt_max_length - 2` tokens stay between begin and mark. A token's type
(`token_type_ids`) is the speaker of its turn, begin's is begin; the mark's, and that of all that is
written, is the mark.

```python
said = [(0, "..."), (1, "..."), (0, "...")]
own = model.config.mmjax
ids, types = [], []
for speaker, text in said:
    mark = own["speakers"][min(speaker, 1)]
    new = [mark, *tokenizer(text, add_special_tokens=False).input_ids]
    ids, types = [*ids, *new], [*types, *[mark] * len(new)]
room = own["prompt_max_length"] - 2
begin = model.config.bos_token_id
mark = own["rewrite"] if own["task"] == "rewrite" else own["speakers"][1]
ids, types = [begin, *ids[-room:], mark], [begin, *types[-room:], mark]
written = []
while len(written) < own["max_new_tokens"]:
    given = {{"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}}
    word = int(model(**given).logits[0, -1].argmax())
    if word == model.config.eos_token_id:
        break
    ids, types, written = [*ids, word], [*types, mark], [*written, word]
print(tokenizer.decode(written))
```
"""
