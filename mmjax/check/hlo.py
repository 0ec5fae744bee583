"""The text of a compiled XLA program, read: computations, instructions, and how often loops run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

# Not every line that begins so: the notes that a kernel carries have several.
_END = re.compile(r"^\}(, execution_thread=\S+)?\s*$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """A type such as bf16[8,128]{1,0:T(8,128)S(1)}.

    Attributes:
      in_memory: it lies in the device's main memory, and not in a memory on the chip (S(1)).
    """

    dtype: str
    shape: tuple[int, ...]
    in_memory: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return math.ceil(self.size * bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Attributes:
    results: of a tuple, its parts in a row.
    arguments: what stands between the parentheses; operands: names in it.
    attributes: what follows them.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def called(self, *keys: str) -> list[str]:
        """Names of the computations under these attributes ("calls", "body", ...)."""
        found = []
        for key in keys:
            for one, several in re.findall(
                rf"\b{key}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})", self.attributes
            ):
                found += [one] if one else _OPERAND.findall(several)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """Attributes:
    computations: name -> its instructions, in order.
    entry: name of the one that the program begins with.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often the body of a `while` runs; None: that is not in the text.

        XLA for CPUs and GPUs writes it down. For TPUs the condition compares a counter, which
        begins at 0, with the only whole number that it holds.
        """
        if found := _KNOWN_TRIPS.search(loop.attributes):
            return int(found[1])
        (condition,) = loop.called("condition")
        limits, compares = set(), False
        for name in [condition, *self._inside(condition)]:
            for one in self.computations[name].values():
                compares |= one.opcode == "compare" and "direction=LT" in one.attributes
                if one.opcode == "constant" and one.results[0].dtype in ("s32", "u32", "s64"):
                    limits.add(one.arguments)
        if not compares or len(limits) != 1:
            return None
        (limit,) = limits
        return int(limit) if limit.isdigit() else None

    def _inside(self, name: str) -> list[str]:
        return [inner for one in self.computations[name].values() for inner in one.called("calls")]


def parse(text: str) -> Module:
    """Reads what `Compiled.as_text()` gives.

    Raises:
      ValueError: it is no such text.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if header := _HEADER.match(line):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif _END.match(line):
            current = None
        elif name := _NAME.match(line):
            one = _instruction(line, name)
            current[one.name] = one
    if not entry:
        raise ValueError("the text of the compiled program has no ENTRY computation")
    return Module(computations, entry)


def bits(dtype: str) -> int:
    """Of one element; 0 for what holds no number (token, opaque)."""
    if dtype == "pred":
        return 8
    found = re.match(r"[a-z]+?(\d+)", dtype)
    return int(found[1]) if found else 0


def first_group(attributes: str, devices: int) -> list[int]:
    """Numbers of devices that take part in a collective together; other groups are like it.

    Of a permutation: all that are not left alone. Numbers count through the mesh, its last axis
    first.

    Args:
      devices: of the program; all of them are one group where none is named.
    """
    if found := re.search(r"source_target_pairs=\{([\d,{}]*)\}", attributes):
        return sorted({int(n) for n in re.findall(r"\d+", found[1])})
    found = re.search(r"replica_groups=(\{\{[\d,]*\}|\[[^\s]*|mesh\[[^]]*\] \{[^}]*\})", attributes)
    if found is None:
        return list(range(devices))
    groups = found[1]
    if groups.startswith("{{"):  # {{0,1},{2,3}}
        return [int(n) for n in re.findall(r"\d+", groups)]
    if groups.startswith("["):  # [4,2]<=[2,4]T(1,0): all numbers in order, turned, cut into groups
        shape, sizes, turned = (
            [int(n) for n in re.findall(r"\d+", part)]
            for part in re.match(r"(\[.*?\])<=(\[.*?\])(?:T(\(.*?\)))?", groups).groups("")
        )
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        numbers = numbers.transpose(turned) if turned else numbers
        return numbers.reshape(-1, shape[-1])[0].tolist()
    # mesh['a'=2,'b'=4] {'b'}, or a part of an axis: 'b':(1)2 is its first half
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", groups)}
    numbers = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
    members = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", groups.partition("] {")[2])
    for axis, name in enumerate(sizes):
        steps = [(int(before or 1), int(size or sizes[name])) for n, before, size in members
                 if n == name]  # fmt: skip
        taken = np.zeros(1, int)
        for before, size in steps:
            stride = sizes[name] // (before * size)
            taken = (taken[:, None] + stride * np.arange(size)).reshape(-1)
        numbers = np.take(numbers, taken, axis=axis)
    return numbers.reshape(-1).tolist()


def _instruction(line: str, name: re.Match[str]) -> Instruction:
    rest = line[name.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    results, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    arguments = rest[len(opcode) + 1 : close]
    return Instruction(
        name=name[2],
        opcode=opcode,
        results=tuple(_arrays(results)),
        operands=tuple(_OPERAND.findall(arguments)),
        arguments=arguments,
        attributes=rest[close + 1 :],
        root=name[1] is not None,
    )


def _arrays(text: str) -> Sequence[Array]:
    found = []
    for dtype, shape, layout in _ARRAY.findall(text):
        space = _MEMORY_SPACE.search(layout)
        sizes = tuple(int(n.lstrip("<=")) for n in shape.split(",") if n)
        found.append(Array(dtype, sizes, space is None or space[1] == "0"))
    return found


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`; strings are passed over."""
    depth = 0
    for found in re.finditer(r'[()]|"(?:[^"\\]|\\.)*"', text[start:]):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.start()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")
