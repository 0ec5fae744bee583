"""What to change where a step does not fit."""

from __future__ import annotations

from mmjax.check.measure import Measured


def advice(found: Measured) -> list[str]:
    """Flags that make it smaller, the most telling first; empty where it fits.

    What a finer cut would leave is an estimate: state and gradients are divided, the rest stays.
    """
    if found.fits is not False:
        return []
    memory, lines = found.train.memory, []
    limit = memory.total if found.device is None else found.device.memory
    state = memory.parameters + memory.optimiser + memory.average
    fsdp = _fsdp(found, state, memory.total, limit)
    wide = [] if fsdp is None else [
        f"--config.mesh.fsdp={fsdp}: parameters, optimiser and gradients are cut into {fsdp}"
    ]  # fmt: skip
    rest = memory.total - state
    narrow = []
    if found.remat == "none":
        narrow.append(
            "--config.model.remat=full: the backward pass computes activations again (or dots: "
            "matrix products are kept)"
        )
    size = found.micro_batch_size or found.batch_size
    shards = found.mesh["data"] * found.mesh["fsdp"]
    if size // 2 >= shards and size % (2 * shards) == 0 and found.independent:
        narrow.append(
            f"--config.train.micro_batch_size={size // 2}: the activations of fewer examples at a "
            "time, with the gradients of all"
        )
    lines = wide + narrow if state > rest else narrow + wide
    if found.dtype == "float32":
        lines.append("--config.model.dtype=bfloat16: activations of half the size")
    return lines or ["a larger slice, or a smaller --config.train.global_batch_size"]


def _fsdp(found: Measured, state: int, total: int, limit: int) -> int | None:
    """The least power of two that leaves room, or the most there is; None: it is no larger."""
    now, most = found.mesh["fsdp"], found.mesh["fsdp"] * found.mesh["data"]
    # Gradients are as large as the parameters, and cut like them.
    divided = state + found.train.memory.parameters
    size = now
    while size * 2 <= most and most % (size * 2) == 0:
        size *= 2
        if total - divided + divided * now / size <= limit:
            break
    return size if size > now else None
