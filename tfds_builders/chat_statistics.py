"""Counts of a dataset's chats and annotations, per split.

    python -m tfds_builders.chat_statistics --dataset=jddc_pairs

A character is a piece of `mmjax.data.chinese.characters`: what is masked counts once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from mmjax.data.chinese import characters
from mmjax.data.schema import Dialogue
from tfds_builders.statistics_table import print_statistics


@dataclass(frozen=True)
class ChatStatistics:
    """Counts of one split.

    Attributes:
      targets: turns to be said; references: of these turns, the turn's own text among them.
      longest: characters of the longest turn; masked: pieces that stand for something masked.
      images_only: dialogues in which nothing is said.
      rewritable, not_rewritable: turns that somebody was asked about.
      products: different ones; attributes: of these.
    """

    dialogues: int = 0
    turns: int = 0
    characters: int = 0
    longest: int = 0
    masked: int = 0
    images: int = 0
    images_only: int = 0
    targets: int = 0
    target_characters: int = 0
    references: int = 0
    rewritable: int = 0
    not_rewritable: int = 0
    products: int = 0
    attributes: int = 0
    edus: int = 0
    relations: int = 0
    summaries: int = 0


def chat_statistics(source: Iterable[Dialogue]) -> ChatStatistics:
    """Counts over all dialogues of a source."""
    total = dict.fromkeys(ChatStatistics.__dataclass_fields__, 0)
    products = {}
    for dialogue in source:
        pieces = [characters(turn.text) for turn in dialogue.turns]
        lengths = [len(said) for said in pieces]
        asked = [turn.rewrites for turn in dialogue.turns if turn.rewrites is not None]
        images = sum(len(turn.photos) for turn in dialogue.turns)
        targets = dialogue.targets or ()
        answered = [turn for k, turn in enumerate(dialogue.turns) if k in targets]
        products |= {product.id: len(product.attributes) for product in dialogue.products}
        total["dialogues"] += 1
        total["turns"] += len(dialogue.turns)
        total["characters"] += sum(lengths)
        total["longest"] = max(total["longest"], *lengths, 0)
        total["masked"] += sum(len(piece) > 2 and "[" in piece for p in pieces for piece in p)
        total["images"] += images
        total["images_only"] += bool(images) and not any(lengths)
        total["targets"] += len(answered)
        total["target_characters"] += sum(lengths[k] for k in targets)
        total["references"] += sum(1 + len(turn.references) for turn in answered)
        total["rewritable"] += sum(bool(rewrites) for rewrites in asked)
        total["not_rewritable"] += sum(not rewrites for rewrites in asked)
        for name in ("edus", "relations", "summaries"):
            total[name] += len(getattr(dialogue, name))
    total |= {"products": len(products), "attributes": sum(products.values())}
    return ChatStatistics(**total)


if __name__ == "__main__":
    about = "Counts of a dataset's chats and annotations, per split."
    sys.exit(print_statistics("tfds_builders.chat_statistics", about, chat_statistics))
