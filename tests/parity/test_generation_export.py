"""A decoder that was exported writes in `transformers` what it writes here."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from mmjax.data.annotations import Product
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.tokenizers import train_character_tokenizer, train_tokenizer
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.models import presets
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.response import ResponseOptions, response_task
from mmjax.tasks.rewrite import RewriteOptions, rewrite_task
from tests.parity.test_export import exported

SIZES = {"max_length": 24, "target_max_length": 8, "decoding": DecodingOptions(max_new_tokens=8)}
SAID = (
    Turn(0, "你好吗？", rewrites=("你好",)),
    Turn(1, "很好 ，要 退货[数字x]吗"),
    Turn(0, "我要退！", rewrites=("我要退货",)),
)
THING = Product("p", attributes=(("退", "你吗我要退"), ("货", "好 ")))
TALK = Dialogue("d", SAID, products=(THING,))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    network = presets.gpt2(layers=2, width=16, heads=2, max_positions=40)
    monkeypatch.setitem(presets.CAUSAL_PRESETS, "gpt2-tiny", network)


def run_card(folder, turns, answers, facts=()):
    """What the code in the folder's card writes."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code, places = re.subn(r'"\."(?=  # this one)', repr(str(folder)), code)
    code, dialogues = re.subn(r"turns = \[.*\]", f"turns = {turns!r}", code)
    code, who = re.subn(r"answers = 1", f"answers = {answers}", code)
    code, known = re.subn(r"facts = \[\]", f"facts = {list(facts)!r}", code)
    assert (places, dialogues, who, known) == (1, 1, 1, 1)
    space = {}
    exec(code, space)
    return space["text"]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (response_task, ResponseOptions(**SIZES)),
        (response_task, ResponseOptions(**SIZES, knowledge=True, knowledge_max_length=7)),
        (rewrite_task, RewriteOptions(**SIZES)),
    ],
    ids=["response", "knowledge", "rewrite"],
)
def test_the_card_s_code_writes_the_same_texts(make, options, tmp_path):
    train_character_tokenizer([turn.text for turn in SAID], 330, tmp_path / "vocabulary")
    task = make(options, ModelOptions(text="gpt2-tiny"))
    task.load(tmp_path / "vocabulary")
    _, variables, batch = exported(task, tmp_path / "export", dialogues=[TALK])
    ids = np.asarray(jax.jit(task.predictors()["written"].fn)(variables, batch))
    subs = [example.sub for example in task.examples(TALK)]
    texts = []
    for sub, own in zip(subs, ids, strict=True):
        turns = [(turn.speaker, turn.text) for turn in SAID[: task.goal.read(sub)]]
        facts = TALK.products[0].attributes
        found = run_card(tmp_path / "export" / "decoder", turns, SAID[sub].speaker, facts)
        texts.append(task.decode(own))
        assert found.strip() == texts[-1]
    assert len(subs) == 2 and all(texts)


def test_pieces_become_the_same_text_in_the_exported_tokenizer(tmp_path):
    texts = [*(turn.text for turn in SAID), "we went 去 out", "ab 坏"]
    tokenizer = train_tokenizer(texts[:4] * 20, 340, tmp_path)
    theirs = tokenizer.to_tokenizers()
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs.decode(ids.tolist()) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("option", "what"),
    [("copies", "copies what it reads"), ("prefix_lm", "reads in both directions")],
)
def test_what_reads_otherwise_than_gpt2_has_no_such_form(option, what, tmp_path):
    train_character_tokenizer(["你好"], 300, tmp_path)
    model = ModelOptions(text="gpt2-tiny", **{option: True})
    task = response_task(ResponseOptions(**SIZES), model)
    task.load(tmp_path)
    with pytest.raises(UserError, match=f"a decoder that {what}"):
        task.exports({"params": {}}, {})
