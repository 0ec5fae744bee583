"""What a compiled program does on each device: operations, bytes moved, collectives.

Counted from the text of the program after all of XLA's passes, and a loop's body as often as it
runs: XLA's own cost analysis counts it once. What is counted is the least that such a program
does, so that times made of it are bounds from below.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from mmjax.check.hlo import Array, Instruction, Module, bits, first_group, parse

# What one device sends, in bytes of the whole array, in a group of n: the least that any algorithm
# does (Chan et al. 2007, "Collective communication: theory, practice, and experience").
_SENT = {
    "all-gather": lambda size, n: size * (n - 1) / n,
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1) / n,
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "ragged-all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
    "collective-broadcast": lambda size, n: size,
}

# Opcodes that move nothing by themselves.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "iota",
}
_KERNEL = "tpu_custom_call"  # Mosaic: what Pallas is compiled to
_LIBRARY = re.compile(r'custom_call_target="__cu(blas|dnn)\$')  # XLA for GPUs calls these two


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Attributes:
    count: collectives of a kind in one call.
    bytes: that a device sends for them, at the least.
    """

    count: int = 0
    bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one call, on one device.

    Attributes:
      flops: of matrix products and convolutions, two for a multiplication and an addition; and of
        custom kernels, which the program does not show, once `with_kernels` has told.
      bytes_moved: between the device and its main memory.
      collectives: by kind.
      bytes_across: of what a device sends, that which goes from slice to slice.
      unknown_loops: whose trips are not in the program; their bodies count once.
      silent_kernels: custom kernels whose FLOPs are not among these.
      silent_calls: calls of a GPU's libraries of which the same is true.
    """

    flops: float = 0.0
    bytes_moved: float = 0.0
    collectives: Mapping[str, Traffic] = dataclasses.field(default_factory=dict)
    bytes_across: float = 0.0
    unknown_loops: int = 0
    silent_kernels: int = 0
    silent_calls: int = 0

    @property
    def bytes_sent(self) -> float:
        """By all collectives."""
        return sum(traffic.bytes for traffic in self.collectives.values())

    def with_kernels(self, flops: float) -> Costs:
        """With the FLOPs of all custom kernels, see `mmjax.observe.flops.kernel_flops`."""
        return dataclasses.replace(self, flops=self.flops + flops, silent_kernels=0)

    def __add__(self, other: Costs) -> Costs:
        kinds = {**self.collectives, **other.collectives}
        a, b = self.collectives, other.collectives
        return Costs(
            self.flops + other.flops,
            self.bytes_moved + other.bytes_moved,
            {k: _together(a.get(k, Traffic()), b.get(k, Traffic())) for k in sorted(kinds)},
            self.bytes_across + other.bytes_across,
            self.unknown_loops + other.unknown_loops,
            self.silent_kernels + other.silent_kernels,
            self.silent_calls + other.silent_calls,
        )

    def times(self, n: int) -> Costs:
        return Costs(
            self.flops * n,
            self.bytes_moved * n,
            {k: Traffic(t.count * n, t.bytes * n) for k, t in self.collectives.items()},
            self.bytes_across * n,
            self.unknown_loops,
            self.silent_kernels,
            self.silent_calls,
        )


def count(text: str, slices: Sequence[int]) -> Costs:
    """Costs of a program, from what `Compiled.as_text()` gives.

    Args:
      slices: of each device that it runs on, in the order of the mesh, the number of its slice.
    """
    return _Counter(parse(text), slices).of(None)


class _Counter:
    """Adds up the instructions of a module, each computation once for all of its calls."""

    def __init__(self, module: Module, slices: Sequence[int]):
        self._module, self._slices = module, slices
        self._known: dict[tuple[str, bool], Costs] = {}

    def of(self, name: str | None, *, fused: bool = False) -> Costs:
        """Of a computation; None: of the program.

        Args:
          fused: its results stay on the chip, and its collectives are parts of another one.
        """
        name = self._module.entry if name is None else name
        if (name, fused) not in self._known:
            computation = self._module.computations[name]
            costs = [self._instruction(one, computation, fused) for one in computation.values()]
            self._known[name, fused] = functools.reduce(Costs.__add__, costs, Costs())
        return self._known[name, fused]

    def _instruction(
        self, one: Instruction, computation: Mapping[str, Instruction], fused: bool
    ) -> Costs:
        opcode = one.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return Costs()
        if opcode == "while":
            trips = self._module.trips(one)
            (body,) = one.called("body")
            costs = self.of(body, fused=fused).times(1 if trips is None else trips)
            return costs if trips is not None else costs + Costs(unknown_loops=1)
        if opcode == "conditional":
            branches = one.called("branch_computations", "true_computation", "false_computation")
            return _dearest(self.of(branch, fused=fused) for branch in branches)
        if opcode in ("call", "async-start"):
            inner = one.called("calls", "to_apply")
            return functools.reduce(Costs.__add__, (self.of(name) for name in inner), Costs())
        moved = 0.0 if fused else self._moved(one, computation)
        if opcode == "fusion":
            (inner,) = one.called("calls")
            return self.of(inner, fused=True) + self._of_collective(inner) + Costs(0, moved)
        if opcode == "dot":
            return Costs(_dot(one, computation), moved)
        if opcode == "convolution":
            return Costs(_convolution(one, computation), moved)
        kind = opcode.removesuffix("-start")
        if kind in _SENT:
            return self._collective(kind, one, moved) if not fused else Costs()
        if opcode == "custom-call" and f'"{_KERNEL}"' in one.attributes:
            return Costs(0.0, moved, silent_kernels=1)
        if opcode == "custom-call" and _LIBRARY.search(one.attributes):
            flops = _library_product(one, computation)
            return Costs(flops or 0.0, moved, silent_calls=int(flops is None))
        return Costs(0.0, moved)

    def _of_collective(self, name: str) -> Costs:
        """Of a fusion that is a collective in TPU programs, or its beginning.

        A reduce-scatter is an all-reduce and a cut; a collective that goes on beside other work
        stands in the fusion that starts it, in those that it goes on beside, and in its end.
        """
        computation = self._module.computations[name]
        scatters = name.startswith("all-reduce-scatter")
        starts = any("AsyncCollectiveStart" in one.attributes for one in computation.values())
        if not (scatters or starts):
            return Costs()
        found = [one for one in computation.values() if one.opcode in _SENT]
        costs = (
            self._collective("reduce-scatter" if scatters else one.opcode, one, 0.0, whole=True)
            for one in found
        )
        return functools.reduce(Costs.__add__, costs, Costs())

    def _collective(self, kind: str, one: Instruction, moved: float, whole: bool = False) -> Costs:
        """Args:
        whole: the result is the whole array, also of a reduce-scatter.
        """
        group = first_group(one.attributes, len(self._slices))
        n = len(group)
        size = sum(array.bytes for array in _results(one))
        if kind == "reduce-scatter" and not whole:
            size *= n
        if n == 1:
            return Costs(0.0, moved)
        sent = _SENT[kind](size, n)
        met = len({self._slices[device] for device in group})
        across = _SENT[kind](size, met) if met > 1 else 0.0
        if not kind.endswith("all-to-all"):
            # Of each slice the parts of an array cross once, shared among its devices. What each
            # device has for each other one is its own, and crosses by itself.
            across *= met / n
        return Costs(0.0, moved, {kind: Traffic(1, sent)}, across)

    def _moved(self, one: Instruction, computation: Mapping[str, Instruction]) -> float:
        """Bytes read from memory and written to it."""
        operands = [computation[name] for name in one.operands if name in computation]
        if one.opcode == "fusion":
            return self._read_by_fusion(one, operands) + self._written_by_fusion(one)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * _in_memory(one.results)
        if one.opcode in ("dynamic-update-slice", "scatter"):
            update = operands[-1] if one.opcode == "scatter" else operands[1]
            return 2.0 * _in_memory(update.results)
        if one.opcode.endswith("slice-start"):  # (there, here, ...)
            here = one.results[1]
            return float(here.bytes * one.results[0].in_memory + here.bytes * here.in_memory)
        if one.opcode == "copy-start":  # (here, there, ...)
            here, there = one.results[:2]
            return float(there.bytes * there.in_memory + here.bytes * here.in_memory)
        return float(_in_memory(x for y in _distinct(operands) for x in y.results) +
                     _in_memory(_results(one)))  # fmt: skip

    def _read_by_fusion(self, one: Instruction, operands: Sequence[Instruction]) -> float:
        total = 0.0
        for number, operand in enumerate(operands):
            if whole := _in_memory(operand.results):
                total += self._read(one.called("calls")[0], number, whole)
        return total

    def _read(self, name: str, number: int, whole: int) -> float:
        """Bytes that a fused computation reads of a parameter: of one of which slices are taken
        only these, nothing of one a part of which is replaced in place.
        """
        computation = self._module.computations[name]
        users: dict[str, list[Instruction]] = {}
        for one in computation.values():
            for operand in dict.fromkeys(one.operands):
                users.setdefault(operand, []).append(one)

        def read(value: str) -> float:
            total = 0.0
            for user in users.get(value, []):
                first = user.operands[0] == value
                if user.opcode in ("bitcast", "get-tuple-element"):
                    total += read(user.name)
                elif user.opcode == "fusion":
                    places = [i for i, operand in enumerate(user.operands) if operand == value]
                    total += sum(self._read(user.called("calls")[0], i, whole) for i in places)
                elif first and user.opcode in ("dynamic-slice", "slice", "gather"):
                    total += user.results[0].bytes
                elif not (first and user.opcode == "dynamic-update-slice"):
                    return float(whole)
            return min(total, float(whole))

        (parameter,) = (
            one.name
            for one in computation.values()
            if one.opcode == "parameter" and int(one.arguments) == number
        )
        return read(parameter)

    def _written_by_fusion(self, one: Instruction) -> float:
        """Of a result that is an operand with a part of it replaced only the part is written."""
        root, inner = self._root(one.called("calls")[0])
        roots = [root]
        if root.opcode == "tuple":
            roots = [inner[name] for name in root.operands]
        if len(roots) != len(one.results):
            return float(_in_memory(one.results))
        total = 0.0
        for array, made in zip(one.results, roots, strict=True):
            where = inner
            while made.opcode in ("bitcast", "fusion") and made.operands[0] in where:
                if made.opcode == "fusion":
                    made, where = self._root(made.called("calls")[0])
                else:
                    made = where[made.operands[0]]
            if not array.in_memory or made.opcode == "parameter":
                continue
            part = array.size
            if made.opcode == "dynamic-update-slice":
                part = where[made.operands[1]].results[0].size
            total += part * bits(array.dtype) / 8
        return total

    def _root(self, name: str) -> tuple[Instruction, Mapping[str, Instruction]]:
        computation = self._module.computations[name]
        (root,) = (one for one in computation.values() if one.root)
        return root, computation


def _dot(one: Instruction, computation: Mapping[str, Instruction]) -> float:
    left = computation[one.operands[0]].results[0]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    summed = [left.shape[int(i)] for i in dims[1].split(",") if i] if dims else []
    return 2.0 * one.results[0].size * math.prod(summed)


def _library_product(one: Instruction, computation: Mapping[str, Instruction]) -> float | None:
    """Of a matrix product by cuBLAS; None: it is something else, of which nothing is told here."""
    dims = re.search(r'"lhs_contracting_dimensions":\[([\d,"]*)\]', one.attributes)
    if "$conv" in one.attributes or "$fmha" in one.attributes or dims is None:
        return None
    left = computation[one.operands[0]].results[0]
    summed = [left.shape[int(i)] for i in re.findall(r"\d+", dims[1])]
    return 2.0 * one.results[0].size * math.prod(summed)


def _convolution(one: Instruction, computation: Mapping[str, Instruction]) -> float:
    """Two for each product of two numbers of which none is padding.

    XLA for TPUs writes batched products as convolutions with much padding, which is not computed.
    """
    left, kernel = (computation[name].results[0] for name in one.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    out = one.results[0]
    window = _window(one.attributes)
    pairs = 1
    for axis in sorted(set(labels[1]) - set("bf")):
        i = int(axis)
        pairs *= _pairs(
            left.shape[labels[1].index(axis)],
            kernel.shape[labels[2].index(axis)],
            out.shape[labels[3].index(axis)],
            *(window[key][i] for key in ("stride", "pad", "lhs_dilate", "rhs_dilate")),
        )
    others = out.shape[labels[3].index("b")] * out.shape[labels[3].index("f")]
    return 2.0 * pairs * others * kernel.shape[labels[2].index("i")]


def _window(attributes: str) -> dict[str, list[int]]:
    """Of each spatial axis; "pad": below."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", found[1])) if found else {}
    axes = len(fields["size"].split("x")) if "size" in fields else 0
    read = {
        key: [int(n) for n in fields[key].split("x")] if key in fields else [1] * axes
        for key in ("stride", "lhs_dilate", "rhs_dilate")
    }
    pads = fields["pad"].split("x") if "pad" in fields else ["0_0"] * axes
    return {**read, "pad": [int(pad.partition("_")[0]) for pad in pads]}


@functools.cache
def _pairs(
    size: int, window: int, out: int, stride: int, pad: int, dilate: int, window_dilate: int
) -> int:
    """Pairs of a place of the result and one of the window under which there is a number."""
    last = (size - 1) * dilate  # in the dilated input
    found = 0
    for k in range(window):
        for o in range(out):
            place = o * stride + k * window_dilate - pad
            found += 0 <= place <= last and place % dilate == 0
    return found


def _dearest(costs: Iterable[Costs]) -> Costs:
    return max(costs, key=lambda c: (c.flops, c.bytes_moved), default=Costs())


def _results(one: Instruction) -> Sequence[Array]:
    """Of its operation: what begins one that goes on beside others also carries its operands."""
    if not one.opcode.endswith("-start") or one.opcode == "all-reduce-start":
        return one.results
    count = len(one.operands)
    return one.results[count : 2 * count]


def _distinct(instructions: list[Instruction]) -> list[Instruction]:
    return list({one.name: one for one in instructions}.values())


def _in_memory(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_memory)


def _together(a: Traffic, b: Traffic) -> Traffic:
    return Traffic(a.count + b.count, a.bytes + b.bytes)
