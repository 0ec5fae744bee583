"""Attention as one kernel, which never writes its weights [B, H, L, M] to memory.

On TPUs splash attention, or flash attention where there is a bias, both of JAX's own Pallas
kernels; on GPUs cuDNN's. All compute the weights block by block and again in the backward pass (Dao
et al. 2022, algorithms 1 and 4). What they cannot do is told by `unsupported`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.parallel.rules import axis_size, partition_spec

LANES = 128  # of a TPU's registers: what lengths must be multiples of
_BLOCK = 512  # tokens at a time, at most: its weights are 1 MiB in float32
_WITHOUT_BFLOAT16 = ("TPU v2", "TPU v3")  # their kernels multiply float32 alone
_AMPERE = 8.0  # compute capability from which cuDNN has fused attention


def fused_attention(
    query: Float[Array, "B L H K"],
    key: Float[Array, "B M H K"],
    value: Float[Array, "B M H K"],
    query_number: Int[Array, "B L"],
    key_number: Int[Array, "B M"],
    bias: Float[Array, "H L M"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Array, "B L H K"]:
    """softmax(scale query key + bias) value over the keys that have the query's number.

    Each device computes the heads of the rows that it has, and nothing moves between devices. What
    a query gets whose number no key has is finite and means nothing.

    Args:
      causal: a query sees no key after its own place.
      scale: 1 / sqrt(K) when None.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # The kernels know no scale, or one that is of the bias too.
    query = (query * scale).astype(query.dtype)
    local = partial(_local, _device()[0], causal)
    arguments = (query, key, value, query_number, key_number, bias)
    if jax.sharding.get_abstract_mesh().empty:
        return local(*arguments)
    tokens = partition_spec(("batch", "length", "act_heads", None))
    numbers = partition_spec(("batch", "length"))
    biases = partition_spec(("act_heads", "length", "length"))
    return jax.shard_map(
        local,
        in_specs=(tokens, tokens, tokens, numbers, numbers, biases),
        out_specs=tokens,
        # Pallas does not tell over which axes its results vary. They do over all that cut tokens,
        # so that gradients are whole all the same.
        check_vma=False,
    )(*arguments)


def unsupported(
    query: Float[Array, "B L H K"], key: Float[Array, "B M H K"], bias: Array | None = None
) -> str | None:
    """Why the devices of the mesh have no kernel for these; None: they have one."""
    platform, kind = _device()
    (B, L, H, K), M = query.shape, key.shape[1]
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and (B % axis_size(mesh, "batch") or H % axis_size(mesh, "act_heads")):
        return f"{B} rows and {H} heads do not divide among the mesh's devices"
    if platform == "tpu":
        if kind in _WITHOUT_BFLOAT16 and query.dtype != jnp.float32:
            return f"kernels on {kind} compute in float32 alone"
        if L % LANES or M % LANES:
            return f"lengths {L} and {M} are no multiples of {LANES}"
        if bias is not None and K > LANES and K % LANES:
            return f"heads of width {K} are no multiple of {LANES}"
        return None
    if platform == "gpu":
        if query.dtype != jnp.bfloat16:
            return "cuDNN has kernels for bfloat16 alone"
        if K % 8 or K > 128:
            return f"cuDNN has no kernel for heads of width {K}"
        capability = float(getattr(jax.devices()[0], "compute_capability", 0))
        if capability < _AMPERE:
            return f"a compute capability of {_AMPERE} is needed; {kind} has {capability}"
        return None
    return f"there is no kernel for {platform} devices"


def _device() -> tuple[str, str]:
    """Platform and kind of the devices that are computed on, which need not be there."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    device = jax.devices()[0] if device is None else device
    return device.platform, device.device_kind


def _local(
    platform: str,
    causal: bool,
    query: Array,
    key: Array,
    value: Array,
    query_number: Array,
    key_number: Array,
    bias: Array | None,
) -> Array:
    if platform == "gpu":
        numbers = (query_number, key_number)
        return cudnn_attention(query, key, value, *numbers, bias, causal=causal)
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B, H, L, K]
    attend = _splash if bias is None else partial(_flash, bias)
    return jnp.swapaxes(attend(causal, query, key, value, query_number, key_number), 1, 2)


def cudnn_attention(
    query: Array,
    key: Array,
    value: Array,
    query_number: Array,
    key_number: Array,
    bias: Array | None,
    *,
    causal: bool,
    implementation: str = "cudnn",
) -> Float[Array, "B L H K"]:
    """As `fused_attention` on one GPU, by a query that is scaled already."""
    mask = query_number[:, None, :, None] == key_number[:, None, None, :]
    bias = None if bias is None else bias[None].astype(query.dtype)
    return jax.nn.dot_product_attention(
        *(query, key, value, bias, mask), scale=1.0, is_causal=causal, implementation=implementation
    )


def _splash(
    causal: bool, query: Array, key: Array, value: Array, query_number: Array, key_number: Array
) -> Array:
    # Here: where there is no TPU they would only make the start longer.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    (_, H, L, _), M = query.shape, key.shape[2]
    q, kv = _block(L), _block(M)
    sizes = splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=True,
    )
    seen = masks.CausalMask((L, M)) if causal else masks.FullMask((L, M))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([seen] * H), block_sizes=sizes, head_shards=1, q_seq_shards=1
    )
    return jax.vmap(kernel)(query, key, value, splash.SegmentIds(query_number, key_number))


def _flash(
    bias: Array,
    causal: bool,
    query: Array,
    key: Array,
    value: Array,
    query_number: Array,
    key_number: Array,
) -> Array:
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    q, kv = _block(query.shape[2]), _block(key.shape[2])
    sizes = flash.BlockSizes(
        block_q=q,
        block_k_major=kv,
        block_k=kv,
        block_b=1,
        block_q_major_dkv=q,
        block_q_dkv=q,
        block_k_major_dkv=kv,
        block_k_dkv=kv,
        block_q_dq=q,
        # A number for each query is repeated so many times in memory.
        block_k_major_dq=LANES,
        block_k_dq=LANES,
    )

    def one(row: tuple[Array, ...]) -> Array:
        *tokens, query_number, key_number = (x[None] for x in row)
        numbers = flash.SegmentIds(query_number, key_number)
        return flash.flash_attention(
            *tokens, bias[None], numbers, causal=causal, block_sizes=sizes
        )[0]

    # Row by row, as the kernel goes through them anyway: it takes a bias for each, and gives a
    # gradient for each.
    return jax.lax.map(one, (query, key, value, query_number, key_number))


def _block(length: int) -> int:
    return max(b for b in (LANES, 2 * LANES, _BLOCK) if b <= _BLOCK and length % b == 0)
