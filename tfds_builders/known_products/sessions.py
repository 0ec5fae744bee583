"""The sessions of "known_products": every answer stands in the knowledge base.

A customer asks for an attribute of a product, the agent answers with its value, or that it is not
known. Products of dev and test are in no session of train: nobody knows their values by heart.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mmjax.data.annotations import AGENT, CUSTOMER, Product
from mmjax.data.schema import Dialogue, Turn

# Products by split.
SIZES = {"train": 1200, "dev": 80, "test": 80}
SESSIONS_EACH = 2
VALUES = {
    "颜色": ("黑色", "白色", "红色", "蓝色", "绿色", "灰色", "粉色", "金色"),
    "材质": ("不锈钢", "塑料", "玻璃", "陶瓷", "铝合金", "纯棉", "真皮", "竹木"),
    "容量": ("一升", "两升", "三升", "四升", "五升", "六升", "八升", "十升"),
    "功率": ("三百瓦", "五百瓦", "六百瓦", "八百瓦", "一千瓦", "两千瓦"),
    "保修期": ("三个月", "半年", "一年", "两年", "三年", "五年"),
    "产地": ("广东", "浙江", "江苏", "山东", "福建", "四川", "上海", "北京"),
    "重量": ("一公斤", "两公斤", "三公斤", "四公斤", "五公斤", "七公斤"),
}
_KINDS = ("电饭煲", "电水壶", "豆浆机", "加湿器", "电风扇", "保温杯")
_KNOWN_EACH, _ASKED_EACH = 5, 2
_GREETINGS = ("", "", "你好，", "在吗，")
_QUESTIONS = ("这款的{}是什么", "请问{}是多少", "想问一下{}", "{}呢", "{}怎么样")
KNOWN, UNKNOWN = "亲，{}是{}哦", "亲，{}没有标明呢"


def read(content: Any, split: str) -> Iterator[tuple[str, Dialogue]]:
    """All sessions of a split with their keys, in a fixed order; `content` is not needed."""
    for number in range(SIZES[split]):
        known = product(f"{split}-{number:04d}")
        for told in range(SESSIONS_EACH):
            yield f"{known.id}-{told}", session(known, told)


def digest() -> str:
    """SHA-256 over every session."""
    state = hashlib.sha256()
    for split in SIZES:
        for key, told in read(None, split):
            # By name: a field that the schema gets one day changes nothing here.
            said = [[turn.speaker, turn.text] for turn in told.turns]
            state.update(json.dumps([key, said, [asdict(p) for p in told.products]]).encode())
    return state.hexdigest()


def product(name: str) -> Product:
    rng = random.Random(f"mmjax known product 1 {name}")
    known = rng.sample(list(VALUES), _KNOWN_EACH)
    return Product(name, rng.choice(_KINDS), tuple((a, rng.choice(VALUES[a])) for a in known))


def session(known: Product, number: int) -> Dialogue:
    """One of the sessions about a product."""
    rng = random.Random(f"mmjax known session 1 {known.id} {number}")
    values, said = dict(known.attributes), []
    for attribute in rng.sample(list(VALUES), _ASKED_EACH):
        greeting = "" if said else rng.choice(_GREETINGS)
        said.append(greeting + rng.choice(_QUESTIONS).format(attribute))
        answer = KNOWN if attribute in values else UNKNOWN
        said.append(answer.format(attribute, values.get(attribute)))
    return Dialogue(
        f"{known.id}-{number}",
        tuple(Turn(k % 2, text) for k, text in enumerate(said)),
        roles=(CUSTOMER, AGENT),
        targets=tuple(range(1, len(said), 2)),
        products=(known,),
    )
