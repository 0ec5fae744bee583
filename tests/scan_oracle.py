"""SCAN's score of one photo and one text, written from the formulas, differentiated by torch."""

from __future__ import annotations

import torch


def scan_score(
    image: torch.Tensor,
    text: torch.Tensor,
    direction: str = "t-i",
    pooling: str = "avg",
    smoothing: float = 9.0,
    lse_smoothing: float = 6.0,
) -> torch.Tensor:
    """Of regions [R, D] and words [W, D], without any padding; Lee et al. 2018, 3.1 to 3.3."""
    seekers, context = (text, image) if direction == "t-i" else (image, text)
    s = torch.nn.functional.leaky_relu(context @ seekers.T, 0.1)  # [K, Q]
    s = s / (s.norm(dim=1, keepdim=True) + 1e-8)  # of each element of the context, over seekers
    found = []
    for q in range(len(seekers)):
        weights = torch.exp(smoothing * s[:, q])
        attended = sum(w * v for w, v in zip(weights / weights.sum(), context, strict=True))
        lengths = seekers[q].norm() * attended.norm()
        found.append(seekers[q] @ attended / lengths.clamp(min=1e-8))
    found = torch.stack(found)
    if pooling == "lse":
        return torch.log(torch.exp(lse_smoothing * found).sum()) / lse_smoothing
    return {"avg": found.mean(), "sum": found.sum(), "max": found.max()}[pooling]


def scan_scores(rows: dict, columns: dict, **options) -> tuple[torch.Tensor, tuple]:
    """Every text against every photo, of each what its mask says is there.

    Returns:
      Scores [r, c] and the leaves (words, regions), float64, that they can be differentiated by.
    """
    words, regions = (
        torch.as_tensor(x, dtype=torch.float64).clone().requires_grad_()
        for x in (rows["words"], columns["regions"])
    )
    texts = [x[: n.sum()] for x, n in zip(words, rows["mask"], strict=True)]
    images = [x[: n.sum()] for x, n in zip(regions, columns["mask"], strict=True)]
    scores = [torch.stack([scan_score(v, e, **options) for v in images]) for e in texts]
    return torch.stack(scores), (words, regions)
