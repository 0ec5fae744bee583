"""Configs: options are dataclasses, a config file fills them, and every mistake is named.

Each part of mmjax declares its options once, as a frozen dataclass with defaults and types. A
config file (`configs/*.py`) turns them into an `ml_collections.ConfigDict` with `section`, the
command line overrides single keys, and `build` makes the dataclass again, checking names, types
and choices, so that a mistyped key never trains a model with a default in its place.

Keys are of two kinds. *Identity* keys say what is trained on what: another value in the same
working directory is refused. *Operational* keys (cadence of logs, mesh, prefetch, length of the
run) may change when a run continues; they are declared with `operational(default)`. Keys declared
with `judging(default)` are fixed for training, but a finished run may be evaluated with others.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, TypeVar

from ml_collections import ConfigDict, FieldReference

from mmjax.errors import UserError

T = TypeVar("T")


def operational(default: Any, **limits: float) -> Any:
    """A dataclass field that may change when a run continues; `limits` as in `limited`."""
    return dataclasses.field(default=default, metadata={"operational": True, "limits": limits})


def judging(default: Any, **limits: float) -> Any:
    """A field that a finished run may be asked about with another value (--mode=eval, predict)."""
    return dataclasses.field(default=default, metadata={"judging": True, "limits": limits})


def limited(default: Any, **limits: float) -> Any:
    """A field whose number has limits: `low` and `high` are allowed, `above` and `below` not."""
    return dataclasses.field(default=default, metadata={"limits": limits})


_SCALARS: dict[str, type] = {"label": str, "system": str, "task_name": str, "seed": int}


def section(options: Any) -> ConfigDict:
    """The dataclass instance `options` as a ConfigDict.

    A key of several types, of which None may be one, takes any literal from the command line, which
    a typed one would refuse; `build` checks it.
    """
    values = ConfigDict()
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            value = section(value)
        elif (
            type(None) in typing.get_args(hint := hints[field.name]) or len(_plain_types(hint)) > 1
        ):
            value = FieldReference(value, field_type=object)
        values[field.name] = value
    return values


def build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """The dataclass `cls` from a section of the config.

    Args:
      path: where the section stands, for messages ("train").

    Raises:
      UserError: an unknown key (with the closest known one), a wrong type or choice, a number
        outside its limits.
    """
    if not isinstance(values, Mapping | ConfigDict):
        raise UserError(f"config.{path}={values!r} must be a section with keys.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    known = {}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"config.{path}.{key} does not exist{suggestion(key, fields)}.")
        known[key] = _checked(value, hints[key], f"{path}.{key}")
        _check_limits(known[key], fields[key].metadata.get("limits", {}), f"{path}.{key}")
    return cls(**known)


def build_sections(config: Mapping[str, Any], sections: Mapping[str, type]) -> dict[str, Any]:
    """All sections of a config as dataclasses; a section that is not known is a UserError."""
    for name in config:
        if name not in sections and name not in _SCALARS:
            near = suggestion(name, [*sections, *_SCALARS])
            raise UserError(f"config.{name} does not exist{near}.")
    for name, hint in _SCALARS.items():
        _checked(config.get(name), hint, name)
    return {name: build(cls, config.get(name, {}), name) for name, cls in sections.items()}


def parse_variant(text: str | None, /, **defaults: Any) -> types.SimpleNamespace:
    """What stands after the colon of `--config=FILE:model=bm25,demo`, over `defaults`.

    A bare word is a switch. Values take the type of their default.
    """
    values = dict(defaults)
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if key not in defaults:
            raise UserError(
                f"variant {key!r} of the config does not exist{suggestion(key, defaults)}."
            )
        default = defaults[key]
        if isinstance(default, bool):
            if value.lower() not in ("", "true", "false", "1", "0"):
                raise UserError(f"variant {key} is a switch: true or false, not {value!r}.")
            values[key] = value.lower() in ("", "true", "1")
        elif not equals:
            raise UserError(f"variant {key} needs a value: {key}=...")
        else:
            kind = str if default is None else type(default)
            try:
                values[key] = kind(value)
            except ValueError:
                raise UserError(
                    f"variant {key}={value!r} is not of type {kind.__name__}."
                ) from None
    return types.SimpleNamespace(**values)


def check_choices(variant: types.SimpleNamespace, **choices: Collection[str]) -> None:
    """Raises UserError where a value of the variant is none of its choices."""
    for name, known in choices.items():
        if (value := getattr(variant, name)) not in known:
            near = suggestion(value, filter(None, known))
            raise UserError(f"variant {name}={value!r} of the config does not exist{near}.")


def check_read(variant: types.SimpleNamespace, own: Mapping[str, Collection[str]]) -> None:
    """Raises UserError where something is said that the variant's model does not read.

    Args:
      own: model -> what it reads that not all others do too, unset where it is "", 0 or False.
    """
    for name in sorted({name for names in own.values() for name in names}):
        if getattr(variant, name) and name not in own[variant.model]:
            models = [model for model, names in own.items() if name in names]
            raise UserError(
                f"variant {name} of the config is read with model={' or '.join(models)}, and not "
                f"with model={variant.model}: leave it out."
            )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Text that names the closest known word, or all of them: ' (did you mean "x"?)'."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f' (did you mean "{close[0]}"?)' if close else f" (there are: {', '.join(known)})"


def duration(
    options: Any, name: str, *, batch_size: float, examples_per_epoch: int, path: str
) -> int | None:
    """Steps given by `{name}_steps`, `{name}_epochs` or `{name}_examples`; None if none is set.

    Args:
      batch_size: examples of a step, on average.

    Raises:
      UserError: when two are set, or one is not positive.
    """
    given = {
        unit: getattr(options, f"{name}_{unit}")
        for unit in ("steps", "epochs", "examples")
        if getattr(options, f"{name}_{unit}") is not None
    }
    if not given:
        return None
    if len(given) > 1:
        keys = " and ".join(f"config.{path}.{name}_{unit}" for unit in given)
        raise UserError(f"{keys} are both set: give one (set the other to None).")
    ((unit, value),) = given.items()
    if value < 0 or (value == 0 and name != "total"):
        raise UserError(f"config.{path}.{name}_{unit} is {value}: it must be positive.")
    examples = {"steps": value * batch_size, "epochs": value * examples_per_epoch}.get(unit, value)
    return max(1, round(examples / batch_size)) if value else 0


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain nested dict of JSON values."""
    return json.loads(json.dumps(config.to_dict(preserve_field_references=False)))


def judging_keys(sections: Mapping[str, type]) -> set[str]:
    """The `section.key` that may differ when a finished run is evaluated."""
    found = set()
    for name, options in sections.items():
        hints = typing.get_type_hints(options)
        for field in dataclasses.fields(options):
            if field.metadata.get("judging"):
                found.add(f"{name}.{field.name}")
            elif dataclasses.is_dataclass(hints[field.name]):
                found |= judging_keys({f"{name}.{field.name}": hints[field.name]})
    return found


def identity(config: Mapping[str, Any], sections: Mapping[str, type]) -> dict[str, Any]:
    """Flat `section.key -> value` of what a run is, without its operational keys.

    Args:
      config: as `to_dict` gives it.
      sections: the dataclass of each section, from which the kinds of the keys are known.
    """
    flat = {}
    for name, value in config.items():
        if name in sections:
            flat.update(_flat(value, sections[name], name))
        elif name != "label":
            flat[name] = value
    return flat


def _flat(values: Mapping[str, Any], options: type, path: str) -> dict[str, Any]:
    """A section that holds keys of a judging kind is flat itself, so that these are told apart."""
    hints, flat = typing.get_type_hints(options), {}
    for key, value in _without_operational(values, options).items():
        nested = hints[key] if dataclasses.is_dataclass(hints[key]) else None
        if nested is not None and judging_keys({key: nested}):
            flat.update(_flat(value, nested, f"{path}.{key}"))
        else:
            flat[f"{path}.{key}"] = value
    return flat


def _without_operational(values: Mapping[str, Any], options: type) -> dict[str, Any]:
    hints, kept = typing.get_type_hints(options), {}
    for field in dataclasses.fields(options):
        if field.name not in values or field.metadata.get("operational"):
            continue
        value, hint = values[field.name], hints[field.name]
        nested = dataclasses.is_dataclass(hint)
        kept[field.name] = _without_operational(value, hint) if nested else value
    return kept


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The types a hint allows, without None: `int | None` -> (int,)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(
            t for arg in typing.get_args(hint) if arg is not type(None) for t in _plain_types(arg)
        )
    if typing.get_origin(hint) is Literal:
        return (str,)
    return (typing.get_origin(hint) or hint,)


def _checked(value: Any, hint: Any, path: str) -> Any:
    optional = type(None) in typing.get_args(hint)
    if value is None:
        if optional:
            return None
        raise UserError(f"config.{path} must have a value.")
    choices, allowed = _choices(hint), _plain_types(hint)
    if choices and value not in choices and not (bool in allowed and isinstance(value, bool)):
        near = suggestion(str(value), map(str, choices))
        raise UserError(f"config.{path}={value!r} is not a choice{near}.")
    if dataclasses.is_dataclass(allowed[0]):
        return build(allowed[0], value, path)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if tuple in allowed and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise UserError(f"config.{path}={value!r} is of type {type(value).__name__}, not {names}.")
    return value


def _check_limits(value: Any, limits: Mapping[str, float], path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config.{path}={value} must be a finite number.")
    if value is None:
        return
    for name, words, within in (
        ("low", "at least", lambda limit: value >= limit),
        ("above", "above", lambda limit: value > limit),
        ("high", "at most", lambda limit: value <= limit),
        ("below", "below", lambda limit: value < limit),
    ):
        if name in limits and not within(limits[name]):
            raise UserError(f"config.{path}={value} must be {words} {limits[name]}.")


def _choices(hint: Any) -> tuple:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(c for arg in typing.get_args(hint) for c in _choices(arg))
    return ()
