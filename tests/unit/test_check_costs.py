"""Costs read from compiled programs are those of the formulas, whatever form XLA gives them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

from mmjax.check.costs import Costs, Traffic, count
from mmjax.check.hlo import first_group, parse
from mmjax.check.roofline import bound, mfu
from mmjax.observe.chips import Chip

# What libtpu makes of a loop: no count of trips but in the condition; a gather that goes on beside
# a product, in three fusions; a reduce-scatter as an all-reduce and a cut; operands on the chip.
TPU = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%slice_of_weights (p0: bf16[6,64,128], p1: s32[]) -> bf16[64,128] {
  %p0 = bf16[6,64,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = bf16[1,64,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,64,128}
  ROOT %flat = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} bitcast(%cut)
}

%begins (p0: bf16[64,128]) -> (bf16[64,128], bf16[128,128], u32[]) {
  %p0 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[128,128]{1,0:T(8,128)(2,1)} all-gather(%p0), channel_id=6, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[128,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%goes_on (p0: bf16[64,128], p1: f32[32,128]) -> f32[32,128] {
  %p0 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p1 = f32[32,128]{1,0:T(8,128)} parameter(1)
  %all-gather.2 = bf16[128,128]{1,0:T(8,128)(2,1)} all-gather(%p0), channel_id=6, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %product = f32[32,128]{1,0:T(8,128)} convolution(%p1, %all-gather.2), dim_labels=bf_io->bf
}

%all-reduce-scatter.7 (p0: f32[128,128]) -> f32[64,128] {
  %p0 = f32[128,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[128,128]{1,0:T(8,128)} all-reduce(%p0), channel_id=7, replica_groups={{0,1},{2,3}}, to_apply=%add
  %zero = s32[]{:T(128)} constant(0)
  ROOT %cut = f32[64,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={64,128}
}

%body (s: (s32[], bf16[6,64,128], f32[32,128], f32[128,128])) -> (s32[], bf16[6,64,128], f32[32,128], f32[128,128]) {
  %s = (s32[], bf16[6,64,128]{2,1,0}, f32[32,128]{1,0}, f32[128,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %w = bf16[6,64,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %x = f32[32,128]{1,0:T(8,128)} get-tuple-element(%s), index=2
  %g = f32[128,128]{1,0:T(8,128)} get-tuple-element(%s), index=3
  %one = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%slice_of_weights
  %start = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[128,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) fusion(%one), kind=kCustom, calls=%begins
  %y = f32[32,128]{1,0:T(8,128)} fusion(%one, %x), kind=kOutput, calls=%goes_on
  %part = f32[64,128]{1,0:T(8,128)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.7
  ROOT %t = (s32[], bf16[6,64,128]{2,1,0}, f32[32,128]{1,0}, f32[128,128]{1,0}) tuple(%i, %w, %y, %g)
}

%condition (s: (s32[], bf16[6,64,128], f32[32,128], f32[128,128])) -> pred[] {
  %s = (s32[], bf16[6,64,128]{2,1,0}, f32[32,128]{1,0}, f32[128,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %limit = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (p: s32[]) -> f32[32,128] {
  %p = s32[]{:T(128)} parameter(0)
  %start = (s32[], bf16[6,64,128]{2,1,0}, f32[32,128]{1,0}, f32[128,128]{1,0}) custom-call(%p), custom_call_target="Made"
  %while = (s32[], bf16[6,64,128]{2,1,0}, f32[32,128]{1,0}, f32[128,128]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[32,128]{1,0:T(8,128)} get-tuple-element(%while), index=2
}
"""  # noqa: E501 - as XLA writes it


ONE_SLICE = [0, 0, 0, 0]

# A Pallas kernel as libtpu writes it: its own notes have several lines.
KERNEL = """  %kernel = f32[32,128]{1,0:T(8,128)} custom-call(%y), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="attention"}
"""  # noqa: E501 - as XLA writes it


def test_a_tpu_programs_loop_counts_each_collective_once_per_trip():
    found = count(TPU, ONE_SLICE)
    assert found.unknown_loops == 0
    assert found.flops == 6 * 2 * 32 * 128 * 128
    gathered, reduced = 128 * 128 * 2, 128 * 128 * 4
    assert found.collectives == {
        "all-gather": Traffic(6, 6 * gathered / 2),
        "reduce-scatter": Traffic(6, 6 * reduced / 2),
    }


# What XLA makes for GPUs of two gathers that begin together, and of one pass to a neighbour.
ASYNC = """HloModule jit_f, is_scheduled=true

ENTRY %main (p0: f32[8,16], p1: bf16[4,32]) -> f32[16,16] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = bf16[4,32]{1,0} parameter(1)
  %start = ((f32[8,16]{1,0}, bf16[4,32]{1,0}), (f32[16,16]{1,0}, bf16[8,32]{1,0})) all-gather-start(%p0, %p1), channel_id=1, replica_groups={{0,1},{2,3}}, dimensions={0}
  %done = (f32[16,16]{1,0}, bf16[8,32]{1,0}) all-gather-done(%start)
  %pass = (f32[8,16]{1,0}, f32[8,16]{1,0}, u32[], u32[]) collective-permute-start(%p0), channel_id=2, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %passed = f32[8,16]{1,0} collective-permute-done(%pass)
  ROOT %out = f32[16,16]{1,0} get-tuple-element(%done), index=0
}
"""  # noqa: E501 - as XLA writes it


def test_collectives_that_begin_together_are_all_counted_and_what_they_carry_along_is_not():
    gathered = 16 * 16 * 4 + 8 * 32 * 2
    assert count(ASYNC, ONE_SLICE).collectives == {
        "all-gather": Traffic(1, gathered / 2),
        "collective-permute": Traffic(1, 8 * 16 * 4),
    }


def test_a_kernel_in_a_loop_hides_nothing_that_follows_it_and_waits_for_its_flops():
    without, found = (
        count(TPU.replace("  %part =", f"{k}  %part ="), ONE_SLICE) for k in ("", KERNEL)
    )
    assert (found.flops, found.collectives) == (without.flops, without.collectives)
    assert found.bytes_moved == without.bytes_moved + 6 * 2 * 32 * 128 * 4
    assert (without.silent_kernels, found.silent_kernels) == (0, 1)
    told = found.with_kernels(5.0)
    assert (told.flops, told.silent_kernels) == (found.flops + 5.0, 0)


def test_what_stays_on_the_chip_is_not_moved_and_of_a_stack_only_the_slice_is():
    one_layer, x, g, part = 64 * 128 * 2, 32 * 128 * 4, 128 * 128 * 4, 64 * 128 * 4
    index = 4
    trip = one_layer + index + 2 * x + g + part
    made = 4 + 4 + 6 * one_layer + x + g  # by the custom call: its operand and what it returns
    assert count(TPU, ONE_SLICE).bytes_moved == 6 * trip + made


def test_a_loop_whose_trips_nobody_knows_counts_once_and_is_told():
    unknown = TPU.replace("constant(6)", "parameter(1)")
    found = count(unknown, ONE_SLICE)
    assert found.unknown_loops == 1 and found.flops == 2 * 32 * 128 * 128


def compiled(function, *arguments):
    return count(jax.jit(function).lower(*arguments).compile().as_text(), [0])


def test_a_compiled_loop_has_the_flops_of_all_its_trips():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)

    def repeated(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, None, length=5)[0]

    found = compiled(repeated, x)
    assert found.flops == 5 * 2 * 64**3
    assert 5 * 3 * 64 * 64 * 4 <= found.bytes_moved < 5 * 12 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("window", "size", "kernel", "out"),
    [
        ("size=3 pad=1_1", 8, 3, 8),
        ("size=3 stride=2 pad=1_0", 8, 3, 4),
        ("size=4 pad=3_3 rhs_reversal=1", 1, 4, 4),  # a batched product, as TPUs have it
        ("size=4 stride=3 lhs_dilate=4", 4, 4, 4),  # another
        ("size=3 pad=2_2 rhs_dilate=2", 6, 3, 6),
    ],
)
def test_products_with_padding_are_not_counted(window, size, kernel, out):
    """Against a loop over all places."""
    text = f"""
ENTRY %main (a: f32[2,{size},5], b: f32[{kernel},5,7]) -> f32[2,{out},7] {{
  %a = f32[2,{size},5]{{2,1,0}} parameter(0)
  %b = f32[{kernel},5,7]{{2,1,0}} parameter(1)
  ROOT %c = f32[2,{out},7] convolution(%a, %b), window={{{window}}}, dim_labels=b0f_0io->b0f
}}
"""
    fields = dict(field.split("=") for field in window.split())
    pad = int(fields.get("pad", "0_0").split("_")[0])
    stride, dilate, spread = (
        int(fields.get(name, 1)) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    places = {i * dilate for i in range(size)}
    real = sum(
        o * stride + k * spread - pad in places
        for o, k in itertools.product(range(out), range(kernel))
    )
    assert real < out * kernel or "pad" not in fields
    assert count(text, [0]).flops == 2 * real * 2 * 5 * 7


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x={}", [0, 1, 2, 3]),
        ("replica_groups=[2,4]<=[8], x", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", list(range(8))),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, x", [0, 2]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}, x", [0, 1]),
        ("source_target_pairs={{0,1},{1,0}}, x", [0, 1]),
        ("replica_groups={}, x", list(range(8))),
        ("channel_id=1", list(range(8))),
    ],
)
def test_every_way_to_write_groups_is_read(text, group):
    assert first_group(text, 8) == group


def test_what_goes_from_slice_to_slice_is_told_apart():
    """Groups of neighbours stay in their slice; those of every second device do not."""
    assert count(TPU, [0, 0, 1, 1]).bytes_across == 0
    across = count(TPU.replace("{'axis_1'}", "{'axis_0'}"), [0, 0, 1, 1])
    assert across.bytes_across == across.collectives["all-gather"].bytes
    # Four devices in two slices: of the whole array half comes from the other slice, and each of
    # a slice's two devices fetches a half of that.
    both = count(TPU.replace("{'axis_1'}", "{'axis_0','axis_1'}"), [0, 0, 1, 1])
    assert both.bytes_across == 6 * 128 * 128 * 2 / 2 / 2


EXCHANGE = """HloModule jit_f

ENTRY %main (p0: f32[24,16]) -> f32[24,16] {
  %p0 = f32[24,16]{1,0} parameter(0)
  ROOT %out = f32[24,16]{1,0} all-to-all(%p0), channel_id=1, replica_groups={GROUP}, dimensions={0}
}
"""


@pytest.mark.parametrize("slices", [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1, 2, 2], [0, 1, 2]])
def test_of_an_exchange_all_that_goes_to_another_slice_crosses(slices):
    """Against a count of every piece from every device to every other."""
    n, whole = len(slices), 24 * 16 * 4
    group = "{{" + ",".join(map(str, range(n))) + "}}"
    sent = crossed = 0
    for one, other in itertools.permutations(range(n), 2):
        sent += whole / n
        crossed += whole / n * (slices[one] != slices[other])
    found = count(EXCHANGE.replace("{GROUP}", group), slices)
    assert found.bytes_sent == pytest.approx(sent / n)
    assert found.bytes_across == pytest.approx(crossed / n)


# What XLA makes for GPUs of a product, of a batch of products by the newer library, and of two
# calls whose work their shapes do not tell.
GPU = """HloModule jit_f, is_scheduled=true

ENTRY %main (a: f32[32,64], b: f32[64,48], c: bf16[4,8,16], d: bf16[4,16,24]) -> f32[32,48] {
  %a = f32[32,64]{1,0} parameter(0)
  %b = f32[64,48]{1,0} parameter(1)
  %c = bf16[4,8,16]{2,1,0} parameter(2)
  %d = bf16[4,16,24]{2,1,0} parameter(3)
  %gemm = (f32[32,48]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"alpha_real":1,"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"epilogue":"DEFAULT"}}
  %batch = (bf16[4,8,24]{2,1,0}, s8[33554432]{0}) custom-call(%c, %d), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
  %conv = (f32[1,3,3,8]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
  %fmha = (bf16[4,8,24]{2,1,0}, u8[0]{0}) custom-call(%c, %d), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"bmm1_dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]}}}
  %sort = f32[32,48]{1,0} custom-call(%a), custom_call_target="__cub$DeviceRadixSort"
  ROOT %out = f32[32,48]{1,0} get-tuple-element(%gemm), index=0
}
"""  # noqa: E501 - as XLA writes it


def test_products_that_a_gpus_library_makes_are_counted_and_what_is_not_known_of_it_is_told():
    found = count(GPU, [0])
    assert found.flops == 2 * 32 * 48 * 64 + 2 * 4 * 8 * 24 * 16
    assert (found.silent_calls, found.silent_kernels) == (2, 0)
    # What a program's own kernels do says nothing of the library's.
    assert found.with_kernels(5.0).silent_calls == 2


def test_a_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("nothing")


def test_the_bound_is_the_longest_of_three_and_mfu_what_the_model_needs_of_it():
    chip = Chip("made up", 100, peak_flops=10.0, memory_bandwidth=4.0, link_bandwidth=2.0)
    costs = Costs(50.0, 28.0, {"all-reduce": Traffic(3, 5.0), "all-gather": Traffic(1, 1.0)})
    found = bound(costs, chip)
    assert (found.compute, found.memory, found.links) == (5.0, 7.0, 3.0)
    assert (found.seconds, found.by) == (7.0, "memory")
    assert mfu(70.0, found.seconds, 2, chip) == 70.0 / (7.0 * 2 * 10.0)
