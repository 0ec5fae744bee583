"""Pair losses in float64 loops over (i, j), written from the formulas; and random batches."""

from __future__ import annotations

import numpy as np

from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE


def oracle(rows, columns, loss, scale, keys, weights):
    """Float64 loops: value, gradients by rows, columns and scale (analytic, pair by pair)."""
    B = len(rows)
    rows, columns = rows.astype(np.float64), columns.astype(np.float64)
    real = [i for i in range(B) if weights[i] > 0]
    similarity = rows @ columns.T

    def is_negative(i, j):
        if i == j:
            return False
        return not any(keys[i, k] == keys[j, k] and keys[i, k] >= 0 for k in range(keys.shape[1]))

    total = 0.0
    slope = np.zeros((B, B))  # d total / d score(i, j)
    for i in real:
        for flip in (False, True):  # row i against columns, then column i against rows
            own = scale * similarity[i, i]
            others = [j for j in real if (is_negative(j, i) if flip else is_negative(i, j))]
            places = [(j, i) if flip else (i, j) for j in others]
            scores = [scale * similarity[p] for p in places]
            if isinstance(loss, SoftmaxCE):
                exponents = np.exp(np.array([own, *scores]))
                total += np.log(exponents.sum()) - own
                for p, share in zip([(i, i), *places], exponents / exponents.sum(), strict=True):
                    slope[p] += share
                slope[i, i] -= 1
                continue
            if isinstance(loss, Sigmoid):
                if flip:  # each pair is judged once
                    continue
                total += np.log1p(np.exp(-own)) + np.log1p(np.exp(np.array(scores))).sum()
                slope[i, i] -= 1 / (1 + np.exp(own))
                for p, s in zip(places, scores, strict=True):
                    slope[p] += 1 / (1 + np.exp(-s))
                continue
            costs = [loss.margin - own + s for s in scores]
            if isinstance(loss, HardestHinge) and costs:
                hardest = int(np.argmax(costs))
                places, costs = [places[hardest]], [costs[hardest]]
            for p, cost in zip(places, costs, strict=True):
                if cost > 0:
                    total += cost
                    slope[p] += 1
                    slope[i, i] -= 1
    d_scale = (slope * similarity).sum()
    return total, scale * slope @ columns, scale * slope.T @ rows, d_scale


def random_case(seed, B=8, D=5, duplicates=True, padding=True):
    rng = np.random.default_rng(seed)
    rows, columns = rng.normal(size=(2, B, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    keys = rng.integers(-1, B, size=(B, 2)) if duplicates else -np.ones((B, 2))
    weights = (rng.random(B) < 0.8) if padding else np.ones(B)
    return rows, columns, keys.astype(np.int32), weights.astype(np.float32)
