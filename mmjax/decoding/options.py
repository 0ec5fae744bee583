"""How answers are written, as a config says it."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from mmjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
    """Greedy as it stands; the names and rules are those of `transformers`.

    Attributes:
      max_new_tokens: of an answer, with the one that ends it.
      min_new_tokens: before the end token may come.
      answers: written for each prompt: that many samples, or the best ones of the beams.
      beams: of a beam search; 1: none.
      length_penalty: a finished beam's score is its log-probability / length^length_penalty (Wu et
        al. 2016, section 7, without the constants).
      early_stopping: True: a search ends with as many finished answers as beams; False: when the
        best open beam, were it as long as now, is worse than all of them; "never": when it could
        not become better at any length.
      sample: words are drawn, instead of taking the best.
      temperature: the logits are divided by it before.
      top_k: only the k best words are drawn from; None: all.
      top_p: only the best words that together have this probability (Holtzman et al. 2020).
      no_repeat_ngram: no n words of prompt and answer come twice (Paulus et al. 2018, 2.5); 0: off.

    Raises:
      UserError: values out of range, or that exclude each other.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    answers: int = 1
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    no_repeat_ngram: int = 0

    def __post_init__(self):
        for name in ("max_new_tokens", "answers", "beams"):
            self._at_least(name, 1)
        for name in ("min_new_tokens", "no_repeat_ngram"):
            self._at_least(name, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"min_new_tokens={self.min_new_tokens} is more than "
                f"max_new_tokens={self.max_new_tokens}: lower it, or raise the other."
            )
        if self.early_stopping not in (True, False, "never"):
            raise UserError(
                f'early_stopping={self.early_stopping!r} must be True, False or "never".'
            )
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty={self.length_penalty} must be a finite number.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} must be above 0.")
        if self.top_k is not None:
            self._at_least("top_k", 1)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1.")
        self._check_together()

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise UserError(f"{name}={getattr(self, name)} must be at least {least}.")

    def _check_together(self) -> None:
        if self.sample and self.beams > 1:
            raise UserError("sample=True and beams > 1: a search draws nothing. Choose one.")
        if not self.sample:
            for name in ("temperature", "top_k", "top_p"):
                default = type(self).__dataclass_fields__[name].default
                if getattr(self, name) != default:
                    raise UserError(f"{name} needs sample=True: without it nothing is drawn.")
            if self.answers > self.beams:
                raise UserError(
                    f"answers={self.answers} of beams={self.beams}: without sampling there are "
                    "only as many answers as beams."
                )
