"""The stack of equal layers that every transformer is, put together from the parts a config names.

Words, patches and what else goes in are made into vectors by the modules that extend it; a family
of models is a choice of parts in `presets.py`, never a branch in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.attention import KERNELS, Attention
from mmjax.models.cache import KeyValues, LayerCache
from mmjax.models.layers import Dropout, FeedForward, LayerNorm, RMSNorm
from mmjax.models.positions import RelativePositions
from mmjax.parallel.rules import constrain

# What the backward pass finds stored instead of computing again. "none" stores everything.
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A stack's parts and sizes.

    Parts are modules outside any model; the stack copies them where they are needed.

    Attributes:
    cross_attention: of a decoder, to the encoder's output; None: there is none.
    relative: biases on the self-attention, the same in all layers; None: there are none.
    norm_first: each part is given its input normalised and its output is added to what was not
      (Xiong et al. 2020); else the sum is normalised.
    final_norm: the last layer's output is normalised.
    share_layers: all layers are one and the same set of weights (ALBERT).
    unroll: layers per trip of the loop over layers; 1 compiles fastest.
    dtype: what is computed in; parameters, softmax and norm are float32.
    kernel: of all attention, see `Attention`.
    """

    width: int
    layers: int
    norm: LayerNorm | RMSNorm
    attention: Attention
    feed_forward: FeedForward
    cross_attention: Attention | None = None
    relative: RelativePositions | None = None
    norm_first: bool = False
    final_norm: bool = False
    share_layers: bool = False
    dropout: float = 0.1
    dtype: str = "float32"
    unroll: int = 1
    remat: str = "none"
    kernel: str = "auto"

    def __post_init__(self):
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel={self.kernel!r} is none of {list(KERNELS)}")
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat={self.remat!r} is none of {sorted(REMAT_POLICIES)}")
        if self.unroll < 1:
            raise ValueError(f"unroll={self.unroll} must be at least 1 (layers per loop trip)")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is neither 'float32' nor 'bfloat16'")


class Stack(nn.Module):
    """The layers, and the norm after them."""

    config: StackConfig

    def setup(self):
        config = self.config
        self.layers = _scanned(config)(config)
        if config.relative is not None:
            self.relative_positions = config.relative.copy()
        if config.final_norm:
            self.final_norm = config.norm.copy(dtype=jnp.dtype(config.dtype))

    def run(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B *L L"] | Int[Array, "B L"],
        train: bool,
        memory: Float[Array, "B M D"] | None = None,
        memory_mask: Bool[Array, "B *L M"] | None = None,
    ) -> Float[Array, "B L D"]:
        """The vectors x after all layers; see `Attention` for the masks."""
        config = self.config
        bias = None if config.relative is None else self.relative_positions(x.shape[1])
        x, _ = self.layers(x, mask, bias, memory, memory_mask, train)
        return self.final_norm(x) if config.final_norm else x

    def layer_weights(self) -> tuple[Any, ...]:
        """The parameters of each layer by itself."""
        weights = self.layers.variables["params"]
        if self.config.share_layers:
            return (weights,) * self.config.layers
        return tuple(jax.tree.map(lambda p, i=i: p[i], weights) for i in range(self.config.layers))

    def empty_cache(self, batch: int, slots: int, memory: int | None) -> tuple[LayerCache, ...]:
        """Of every layer, with room for `slots` tokens and a memory of so many (None: of none)."""
        config = self.config

        def empty(attention: Attention, slots: int) -> KeyValues:
            sizes = attention.heads, attention.head_dim, slots
            return KeyValues.empty(batch, *sizes, jnp.dtype(config.dtype))

        return tuple(
            LayerCache(
                empty(config.attention, slots),
                None if memory is None else empty(config.cross_attention, memory),
            )
            for _ in range(config.layers)
        )

    def run_cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B L M"],
        bias: Float[Array, "H Q M"] | None,
        cache: tuple[LayerCache, ...],
        weights: tuple[Any, ...],
        slot: Any,
        memory: Float[Array, "B N D"] | None = None,
        memory_mask: Bool[Array, "B N"] | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[LayerCache, ...]]:
        """As `run` for the tokens that come into the cache's slots from `slot` on.

        `memory` is needed once; then the cache has it. Not a loop: it would copy each layer's part
        of the cache out and in again.
        """
        layer, after = Layer(self.config, parent=None), []
        for own, part in zip(weights, cache, strict=True):
            given = (x, mask, bias, memory, memory_mask, False, part, slot)
            x, part = layer.apply({"params": own}, *given)
            after.append(part)
        return self.final_norm(x) if self.config.final_norm else x, tuple(after)


class Layer(nn.Module):
    """Attention (of a decoder, also to the memory) and feed-forward, each added to its input."""

    config: StackConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B *L M"] | Int[Array, "B M"],
        bias: Float[Array, "H Q M"] | None,
        memory: Float[Array, "B N D"] | None,
        memory_mask: Bool[Array, "B *L N"] | None,
        train: bool,
        cache: LayerCache | None = None,
        slot: Any = None,
    ) -> tuple[Float[Array, "B L D"], LayerCache | None]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = Dropout(config.dropout)

        def add(name: str, x: Array, part: Callable[[Array], tuple[Array, Any]]) -> Any:
            norm = config.norm.copy(name=f"{name}_norm", dtype=dtype)
            y, after = part(norm(x) if config.norm_first else x)
            x = x + dropout(y, train)
            if not config.norm_first:
                x = norm(x)
            return constrain(x, "batch", "length", "act_embed"), after

        how = {"dtype": dtype, "kernel": config.kernel}
        attention = config.attention.copy(name="attention", **how)
        own = None if cache is None else cache.own
        x, own = add(
            "attention",
            x,
            lambda y: attention(y, mask, train, bias=bias, cache=own, slot=slot),
        )
        kept = None if cache is None else cache.memory
        if config.cross_attention is not None:
            cross = config.cross_attention.copy(name="cross_attention", **how)
            known = {"memory": memory, "cache": kept, "slot": None if memory is None else 0}
            x, kept = add("cross_attention", x, lambda y: cross(y, memory_mask, train, **known))
        feed_forward = config.feed_forward.copy(name="feed_forward", dtype=dtype)
        x, _ = add("feed_forward", x, lambda y: (feed_forward(y, train), None))
        return x, None if cache is None else LayerCache(own, kept)


def _scanned(config: StackConfig) -> Any:
    """Layer scanned over the layers, its parameters stacked along a first axis or shared."""
    layer = Layer
    if config.remat != "none":
        # Where all layers stand in one body, XLA would find the recomputation to be a common
        # subexpression of the forward pass and undo it; inside a loop it cannot.
        layer = nn.remat(
            layer,
            policy=REMAT_POLICIES[config.remat],
            prevent_cse=config.unroll >= config.layers,
            static_argnums=(6,),  # train; 0 is the module
        )
    shared = config.share_layers
    return nn.scan(
        layer,
        variable_axes={} if shared else {"params": 0},
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared, "dropout": True},
        in_axes=nn.broadcast,
        length=config.layers,
        unroll=config.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
