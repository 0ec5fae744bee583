"""Pair losses in float64 loops over (i, j), written from the formulas; and random batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.parallel.ring import Carry, Tile
from mmjax.parallel.scores import DotProduct, Row, Score, Scores
from tests.scan_oracle import scan_scores

# LLVM's optimisation of kernels is half of what a compilation takes; buffers and results of small
# arrays do not depend on it.
QUICK_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
LOSSES = [SoftmaxCE(), SumHinge(0.2), HardestHinge(0.2), Sigmoid()]


@dataclass(frozen=True)
class Together:
    """The losses that go both ways in one, each times a factor: to compile once and not thrice."""

    losses_of = (SoftmaxCE(), SumHinge(0.2), HardestHinge(0.2))
    factors = (1.0, 0.5, 2.0)
    both = True

    def start(self, positive: Row) -> Carry:
        return tuple(loss.start(positive) for loss in self.losses_of)

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        return tuple(loss.fold(own, tile) for loss, own in self._with(carry))

    def losses(self, carry: Carry, positive: Row) -> Row:
        return self._sum(loss.losses(own, positive) for loss, own in self._with(carry))

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        return self._sum(loss.slopes(own, tile) for loss, own in self._with(carry))

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return self._sum(loss.positive_slopes(own, positive) for loss, own in self._with(carry))

    def _with(self, carry: Carry):
        return zip(self.losses_of, carry, strict=True)

    def _sum(self, values):
        return sum(factor * value for factor, value in zip(self.factors, values, strict=True))


class Truth(NamedTuple):
    """The total, and its derivatives: by rows and columns (their floating leaves), scale, bias."""

    total: float
    rows: Any
    columns: Any
    scale: float
    bias: float


@dataclass(frozen=True)
class Kind:
    """A score as the engine takes it, examples for it, and how it is made by loops.

    towers: (random generator, B) -> rows, columns.
    loops: (rows, columns) -> scores [B, B], and (slope [B, B]) -> gradients by both.
    """

    score: Score
    towers: Callable[[np.random.Generator, int], tuple[Any, Any]]
    loops: Callable[[Any, Any], tuple[np.ndarray, Callable[[np.ndarray], tuple[Any, Any]]]]


@dataclass(frozen=True, eq=False)
class Towers:
    """What a score reads, float64."""

    kind: Kind
    rows: Any
    columns: Any

    @functools.cached_property
    def scored(self) -> Any:
        return self.kind.loops(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of pairs."""

    towers: Towers
    keys: np.ndarray
    weights: np.ndarray

    @property
    def rows(self) -> Any:
        return self.towers.rows

    @property
    def columns(self) -> Any:
        return self.towers.columns

    def truth(self, loss: Any, scale: float = 1.0, bias: float = 0.0) -> Truth:
        similarity, back = self.towers.scored
        parts = (
            zip(loss.losses_of, loss.factors, strict=True)
            if isinstance(loss, Together)
            else [(loss, 1.0)]
        )
        total, slope = 0.0, np.zeros_like(similarity)
        for part, factor in parts:
            value, by = looped(scale * similarity + bias, part, self.keys, self.weights)
            total, slope = total + factor * value, slope + factor * by
        return Truth(total, *back(scale * slope), (slope * similarity).sum(), slope.sum())


def random_case(kind: Kind, seed: int, B: int, *, duplicates=True, padding=True) -> Case:
    """Duplicates: about a third of the pairs share an id; padding: about a fifth."""
    rng = np.random.default_rng(seed)
    towers = Towers(kind, *kind.towers(rng, B))
    keys = rng.integers(-1, B, size=(B, 2)) if duplicates else -np.ones((B, 2))
    weights = (rng.random(B) < 0.8) if padding else np.ones(B)
    return Case(towers, keys.astype(np.int32), weights.astype(np.float32))


def looped(scores: np.ndarray, loss: Any, keys: np.ndarray, weights: np.ndarray):
    """Total of a loss and its derivative by every score."""
    B = len(scores)
    real = [i for i in range(B) if weights[i] > 0]

    def is_negative(i, j):
        if i == j:
            return False
        return not any(keys[i, k] == keys[j, k] and keys[i, k] >= 0 for k in range(keys.shape[1]))

    total = 0.0
    slope = np.zeros((B, B))  # d total / d score(i, j)
    for i in real:
        weight, own = float(weights[i]), scores[i, i]
        for flip in (False, True):  # row i against columns, then column i against rows
            others = [j for j in real if (is_negative(j, i) if flip else is_negative(i, j))]
            places = [(j, i) if flip else (i, j) for j in others]
            found = [scores[p] for p in places]
            if isinstance(loss, SoftmaxCE):
                exponents = np.exp(np.array([own, *found]))
                total += weight * (np.log(exponents.sum()) - own)
                for p, share in zip([(i, i), *places], exponents / exponents.sum(), strict=True):
                    slope[p] += weight * share
                slope[i, i] -= weight
                continue
            if isinstance(loss, Sigmoid):
                if flip:  # each pair is judged once
                    continue
                total += weight * (np.log1p(np.exp(-own)) + np.log1p(np.exp(found)).sum())
                slope[i, i] -= weight / (1 + np.exp(own))
                for p, s in zip(places, found, strict=True):
                    slope[p] += weight / (1 + np.exp(-s))
                continue
            costs = [loss.margin - own + s for s in found]
            if isinstance(loss, HardestHinge) and costs:
                hardest = int(np.argmax(costs))
                places, costs = [places[hardest]], [costs[hardest]]
            for p, cost in zip(places, costs, strict=True):
                if cost > 0:
                    total += weight * cost
                    slope[p] += weight
                    slope[i, i] -= weight
    return total, slope


def _embeddings(rng, B, D=5):
    return _unit(rng.normal(size=(B, D))), _unit(rng.normal(size=(B, D)))


def _dot_products(rows, columns):
    return rows @ columns.T, lambda slope: (slope @ columns, slope.T @ rows)


def _words_and_regions(rng, B, W=5, R=4, D=6):
    """Between one and all of the words and regions are there; what is not there holds 50."""
    said = np.arange(W) < rng.integers(1, W + 1, (B, 1))
    there = np.arange(R) < rng.integers(1, R + 1, (B, 1))
    words = np.where(said[..., None], _unit(rng.normal(size=(B, W, D))), 50)
    regions = np.where(there[..., None], _unit(rng.normal(size=(B, R, D))), 50)
    return {"words": words, "mask": said}, {"regions": regions, "mask": there}


def _attended(rows, columns):
    """Pair by pair, of each side only what is there; differentiated by torch."""
    scores, leaves = scan_scores(rows, columns)

    def back(slope):
        by = torch.autograd.grad(scores, leaves, torch.tensor(slope), retain_graph=True)
        return {"words": by[0].numpy()}, {"regions": by[1].numpy()}

    return scores.detach().numpy(), back


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


DOT = Kind(DotProduct(), _embeddings, _dot_products)
CROSS = Kind(StackedCrossAttention(), _words_and_regions, _attended)
KINDS = {"dot product": DOT, "cross attention": CROSS}
