"""Photo-sharing intent as models of `transformers`: what is written, and cards that explain it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.data.tokenizer_export import transformers_files
from mmjax.data.tokenizers import Tokenizer
from mmjax.models.text_to_text import TextToTextConfig
from mmjax.models.turn_classifier import TurnClassifierConfig
from mmjax.pretrained.classifiers import classifier_content, why_no_classifier
from mmjax.pretrained.exported import ModelFolder, linear
from mmjax.pretrained.writing import transformer_content
from mmjax.tasks.intent_examples import ANSWERS, JOINT, PROMPT, IntentOptions

LABELS = ("no_photo", "photo_follows")

OWN_KEY = "mmjax"  # of config.json: what is to be known beside the network


def encoder_folders(
    config: TurnClassifierConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    options: IntentOptions,
    chosen: Mapping[str, float],
) -> list[ModelFolder]:
    """A classifier of transformers, or encoder and head apart where it has none of this form."""
    encoder = _with_every_token(config.encoder, tokenizer)
    described, tensors = transformer_content(encoder, params["text_tower"])
    described |= {"pad_token_id": tokenizer.pad_id}
    own = _own(options, chosen) | {"activation": config.activation}
    files = transformers_files(tokenizer, options.max_length, truncation_side="left")
    if options.prefix == "shared":
        why = "each of its tokens sees its own turn and those before, and every turn has a score"
    else:
        why = why_no_classifier(
            described["model_type"], encoder.width, config.hidden_dim, config.activation
        )
    hidden, head = params["hidden"], params["head"]
    if why is None:
        described, tensors = classifier_content(described, tensors, hidden, head, LABELS)
        described[OWN_KEY] = own
        return [ModelFolder("classifier", described, tensors, _CLASSIFIER, files)]
    described[OWN_KEY] = own
    apart = f"It is no classifier of transformers: {why}. Encoder and head are two folders.\n\n"
    scores = {"labels": list(LABELS), "hidden_dim": config.hidden_dim, **own}
    return [
        ModelFolder("encoder", described, tensors, apart + _APART[options.prefix], files),
        ModelFolder(
            "head",
            scores,
            {**linear(hidden, "hidden"), **linear(head, "head")},
            "The head of the encoder in `../encoder`, whose card says how it is used.",
        ),
    ]


def text_to_text_folders(
    config: TextToTextConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    options: IntentOptions,
    chosen: Mapping[str, float],
) -> list[ModelFolder]:
    """The whole encoder-decoder."""
    sides = {
        side: _with_every_token(getattr(config.model, side), tokenizer)
        for side in ("encoder", "decoder")
    }
    model = dataclasses.replace(config.model, **sides)
    described, tensors = transformer_content(model, params["model"])
    ids = {
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "decoder_start_token_id": config.start,
    }
    own = _own(options, chosen) | {"answers": [list(answer) for answer in config.answers]}
    files = transformers_files(tokenizer, options.max_length, truncation_side="left")
    return [ModelFolder("text_to_text", described | ids | {OWN_KEY: own}, tensors, _WORDS, files)]


def _own(options: IntentOptions, chosen: Mapping[str, float]) -> dict[str, Any]:
    return {
        "task": "photo-sharing intent",
        "prefix": options.prefix,
        "max_length": options.max_length,
        # Positive from this probability on; the best on dev where the run has chosen one.
        "threshold": chosen.get("threshold", 0.5),
        "threshold_chosen_on_dev": "threshold" in chosen,
    }


def _with_every_token(config: Any, tokenizer: Tokenizer) -> Any:
    """With rows for all of the tokenizer's tokens: some may be in what fills a table up."""
    size = max(config.vocab_size, tokenizer.vocab_size)
    return dataclasses.replace(config, vocab_size=size)


_WHAT = """\
After a turn of a dialogue: does a photo follow (`photo_follows`, 1) or not (`no_photo`, 0)?
Photo-sharing intent, task A of PhotoChat (Zang et al. 2021).

Consecutive turns of one speaker are one turn, their texts joined by a space; turns without text
are left out. """

_ROW = """\
A dialogue up to its turn j is the row `[CLS] t_1 [SEP] t_2 [SEP] ... t_j [SEP]`, of
which at most the last `max_length - 1` tokens are kept after [CLS]. A token's type is the number of
its speaker (from 0; at most the last type that there is): a [SEP] has that of the turn it closes,
[CLS] that of the token after it."""

_THRESHOLD = """\
`mmjax` in config.json holds `max_length` and `threshold`: the probability from which on the answer
is yes, the best on dev where `threshold_chosen_on_dev` says so."""

_TURNS = """\


def tokens(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


turns = [(0, "hello there"), (1, "where have you been?"), (0, "at the lake, with my dog")]
ids, types, lengths = [], [], []
for speaker, text in turns:
    new = [*tokens(text), tokenizer.sep_token_id]
    ids += new
    types += [min(speaker, config.type_vocab_size - 1)] * len(new)
    lengths.append(len(new))
room = config.mmjax["max_length"] - 1"""

_READ = f"""\
{_TURNS}
ids, types = ids[-room:], types[-room:]
ids, types = [tokenizer.cls_token_id, *ids], [types[0], *types]"""

# As `mmjax.tasks.intent_examples.pieces` does it.
_READ_TURNS = f"""\
{_TURNS}
first = filled = 0  # the first turn that is scored here, the tokens from there on
for turn, length in enumerate(lengths):
    if turn > first and filled + length > (room // 2 if first else room):
        first, filled = turn, 0
    filled += length
begin = max(0, sum(lengths[:first]) - (room - room // 2))
number = [turn for turn, length in enumerate(lengths) for _ in range(length)]
ids, types, number = (row[begin:][-room:] for row in (ids, types, number))
ids, types, number = [tokenizer.cls_token_id, *ids], [types[0], *types], [number[0], *number]"""

_CLASSIFIER = f"""\
{_WHAT}{_ROW}

{_THRESHOLD}

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
config = model.config
{_READ}
with torch.no_grad():
    logits = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
probability = logits.softmax(-1)[0, 1].item()
print(probability, probability >= config.mmjax["threshold"])
```
"""

_LOAD_APART = """\
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = Path(".")  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
config = model.config
head = load_file(folder.parent / "head" / "model.safetensors")
activation = {"tanh": torch.tanh, "relu": torch.relu, "none": lambda x: x}"""

_SCORE = """\
    hidden = read @ head["hidden.weight"].T + head["hidden.bias"]
    hidden = activation[config.mmjax["activation"]](hidden)
    logits = hidden @ head["head.weight"].T + head["head.bias"]"""

_APART = {
    "separate": f"""\
{_WHAT}{_ROW}

{_THRESHOLD}

```python
{_LOAD_APART}
{_READ}
with torch.no_grad():
    states = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).last_hidden_state
    read = states[0, 0]  # [CLS]
{_SCORE}
probability = logits.softmax(-1)[1].item()
print(probability, probability >= config.mmjax["threshold"])
```
""",
    "shared": f"""\
{_WHAT}{_ROW}
A token sees the tokens of its own turn and of those before, for which the model is
given a mask for each pair of tokens, and the score after a turn is read from the [SEP] that closes
it. A longer dialogue is read in several rows, of which the last is made here: half a row of what
was said before, and then the turns that are scored.

{_THRESHOLD}

```python
{_LOAD_APART}
{_READ_TURNS}
number = torch.tensor(number)
sees = number[None, :] <= number[:, None]
ends = number != torch.cat([number[1:], torch.tensor([len(turns)])])
mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
with torch.no_grad():
    states = model(
        torch.tensor([ids]),
        token_type_ids=torch.tensor([types]),
        attention_mask=mask[None, None],  # [batch, 1, token, seen token]
    ).last_hidden_state
    read = states[0, ends][first - len(turns) :]  # one row per turn that is scored
{_SCORE}
probability = logits.softmax(-1)[:, 1].tolist()
print([(p, p >= config.mmjax["threshold"]) for p in probability])
```
""",
}

_WORDS = f"""\
{_WHAT}Of a dialogue up to its turn j the model reads
`{PROMPT} t_1 {JOINT} t_2 ... t_j`, "{JOINT}" being written out, and answers "{ANSWERS[1]}" or
"{ANSWERS[0]}". Prompt, turns and {JOINT} are each cut into tokens alone; of the turns the last are
kept where there are more than `max_length`. The probability of yes compares the two answers at the
first token in which they differ.

{_THRESHOLD} `answers` holds the tokens of both answers.

```python
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
config = model.config


def tokens(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


turns = ["hello there", "where have you been?", "at the lake, with my dog"]
said = tokens(turns[0]) + [i for turn in turns[1:] for i in tokens("{JOINT}") + tokens(turn)]
prompt = tokens("{PROMPT}")
room = config.mmjax["max_length"] - len(prompt) - 1
ids = [*prompt, *said[-room:], tokenizer.eos_token_id]
no, yes = config.mmjax["answers"]
first = next(k for k, (a, b) in enumerate(zip(no, yes)) if a != b)
target = [config.decoder_start_token_id, *yes[:first]]
with torch.no_grad():
    scores = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([target])).logits[0, -1]
logits = scores[[no[first], yes[first]]]
probability = logits.softmax(-1)[1].item()
print(probability, probability >= config.mmjax["threshold"])
```
"""
