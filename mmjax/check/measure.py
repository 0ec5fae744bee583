"""The steps of a run, compiled for devices that need not be there, and what they hold and do."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from mmjax import train_state
from mmjax.check import roofline
from mmjax.check.costs import Costs, count
from mmjax.check.subject import EXAMPLES, Subject
from mmjax.observe import chips
from mmjax.observe.flops import kernel_flops, training_flops
from mmjax.parallel.mesh import make_mesh
from mmjax.programs import check_options, make_training, run_schedule
from mmjax.steps import make_predict_steps

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# libtpu's two ways to say how much memory a program needs, arguments and all.
_REFUSED = re.compile(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])(?: of |\) exceeds )")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: with frozen ones and the model's other variables.
      optimiser: its state.
      average: of the parameters, where one is kept.
      batch: of the inputs.
      resident: what else lies there meanwhile (the optimiser's state during evaluation).
      arguments: all that goes in, as the device lays it out.
      outputs: what comes out and does not take the place of an argument.
      temporaries: activations, gradients, and what else is made and dropped; of a program that the
        compiler refused, all that it asked for beside the arguments.
      program: the code.
    """

    parameters: int
    optimiser: int
    average: int
    batch: int
    resident: int
    arguments: int
    outputs: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.resident + self.arguments + self.outputs + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step. Attributes:
    memory: on one device.
    costs: of one call on one device; None where the compiler refused the program.
    refused: it did: there is no room.
    """

    memory: Memory
    costs: Costs | None
    refused: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run on a mesh.

    Attributes:
      label, slice: of the config; where it is to run ("v3:4x4", or "local").
      kind: as JAX names the devices; devices: how many.
      mesh: sizes of its axes.
      batch_size, micro_batch_size, eval_batch_size: global.
      train: the training step.
      evaluation: what a batch of evaluation computes, by name.
      model_flops: of a training step over all devices, without recomputation; None: not known.
      device: what such a device can do; None: that is not known (`mmjax.observe.chips`).
      remat, dtype: of the model's options; None: it has none.
      independent: the model's outputs for an example depend on that example alone.
      notes: stand-ins.
    """

    label: str
    slice: str
    kind: str
    devices: int
    mesh: Mapping[str, int]
    batch_size: int
    micro_batch_size: int | None
    eval_batch_size: int
    train: Compiled
    evaluation: Mapping[str, Compiled]
    model_flops: float | None
    device: chips.Chip | None
    remat: str | None
    dtype: str | None
    independent: bool
    notes: Sequence[str]

    @property
    def bound(self) -> roofline.Bound | None:
        """On the time of a training step."""
        if self.device is None or self.train.costs is None:
            return None
        return roofline.bound(self.train.costs, self.device)

    @property
    def mfu(self) -> float | None:
        """At the bound."""
        bound = self.bound
        if bound is None or self.model_flops is None or not bound.seconds:
            return None
        return roofline.mfu(self.model_flops, bound.seconds, self.devices, self.device)

    @property
    def fits(self) -> bool | None:
        """Whether every step does; None: how much memory there is is not known."""
        steps = [self.train, *self.evaluation.values()]
        if any(step.refused for step in steps):
            return False
        if self.device is None:
            return None
        return all(step.memory.total <= self.device.memory for step in steps)


def measure(
    subject: Subject,
    devices: Sequence[jax.Device],
    *,
    slice: str = "local",
    evaluation: bool = True,
) -> Measured:
    """Compiles a run's steps for these devices.

    Args:
      slice: their name, for the report.
      evaluation: whether to compile what evaluation computes too.

    Raises:
      UserError: the mesh, the batch or a parameter does not divide among them.
    """
    task, options = subject.task, subject.options
    mesh = make_mesh(options["mesh"], devices)
    check_options(task, options, mesh)
    train = options["train"]
    # All this outside of the mesh: on devices that are not there nothing can be computed.
    batch = subject.training_batch(mesh)
    schedule = run_schedule(options, EXAMPLES)
    training = make_training(task, options, batch, mesh, steps=schedule.total, examples=EXAMPLES)
    state, objective = training.abstract, task.objective()
    key = jax.eval_shape(lambda: jax.random.key(0))

    def forward(variables: Any, batch: Any, key: jax.Array) -> jax.Array:
        outputs = training.module.apply(
            variables, batch, train=False, rngs={"dropout": key}, mutable=False
        )
        return objective(outputs, batch)[0]

    steps = {}
    if evaluation:
        predictors = task.predictors()
        functions = {name: predictor.fn for name, predictor in predictors.items()}
        size = options["eval"].batch_size
        model, _ = train_state.abstract_state(
            training.module, batch, optax.identity(), mesh, ema=False
        )
        jitted = make_predict_steps(functions, mesh)
        inputs = {n: subject.batch(mesh, size, p.features) for n, p in predictors.items()}
    slices = [getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat]
    with jax.set_mesh(mesh):
        trained = _compiled(training.step, (state, batch), _of_state(state, batch), slices)
        flops = _known(training_flops, forward, state.base_variables(), batch, key)
        if evaluation:
            for name, step in jitted.items():
                arguments = (model.eval_variables(), inputs[name])
                found = _compiled(step, arguments, _of_evaluation(*arguments), slices)
                steps[name] = _beside(found, bytes_on_device(state))
    return Measured(
        label=subject.label,
        slice=slice,
        kind=devices[0].device_kind,
        devices=len(devices),
        mesh=dict(mesh.shape),
        batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        eval_batch_size=options["eval"].batch_size,
        train=trained,
        evaluation=steps,
        model_flops=flops,
        device=chips.of_device(devices[0].device_kind),
        remat=getattr(options["model"], "remat", None),
        dtype=getattr(options["model"], "dtype", None),
        independent=task.independent,
        notes=subject.notes,
    )


def bytes_on_device(tree: Any) -> int:
    """Of the largest part that a device has of a tree of arrays or ShapeDtypeStructs."""
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree)
    )


def _of_state(state: train_state.TrainState, batch: Any) -> Memory:
    parameters = bytes_on_device((state.params, state.variables, state.frozen))
    optimiser, average = bytes_on_device(state.opt_state), bytes_on_device(state.ema)
    inputs = bytes_on_device(batch)
    return Memory(parameters, optimiser, average, inputs, 0, 0, 0, 0, 0)


def _of_evaluation(variables: Any, batch: Any) -> Memory:
    return Memory(bytes_on_device(variables), 0, 0, bytes_on_device(batch), 0, 0, 0, 0, 0)


def _beside(step: Compiled, state: int) -> Compiled:
    """A training goes on afterwards: what evaluation does not read of its state stays meanwhile."""
    read = max(0, step.memory.arguments - step.memory.batch)
    memory = dataclasses.replace(step.memory, resident=max(0, state - read))
    return dataclasses.replace(step, memory=memory)


def _compiled(
    step: Any, arguments: tuple[Any, ...], memory: Memory, slices: Sequence[int]
) -> Compiled:
    try:
        traced = step.trace(*arguments)
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = _REFUSED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or used is None:
            raise
        total = int(float(used[1]) * _UNITS[used[2]])
        held = memory.parameters + memory.optimiser + memory.average + memory.batch
        rest = max(0, total - held)
        memory = dataclasses.replace(memory, arguments=held, temporaries=rest)
        return Compiled(memory, None, refused=True)
    found = program.memory_analysis()
    memory = dataclasses.replace(
        memory,
        arguments=found.argument_size_in_bytes,
        outputs=max(0, found.output_size_in_bytes - found.alias_size_in_bytes),
        temporaries=found.temp_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )
    costs = count(program.as_text(), slices)
    if costs.silent_kernels and (flops := _known(kernel_flops, traced.jaxpr)) is not None:
        costs = costs.with_kernels(flops)
    return Compiled(memory, costs)


def _known(flops: Callable[..., int], *arguments: Any) -> float | None:
    try:
        return float(flops(*arguments))
    except ValueError:  # a product in a loop whose trips nobody knows beforehand
        return None
