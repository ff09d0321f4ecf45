"""From plain mappings to a checked config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from pydantic import create_model

from peftbench.common.errors import UserError, nearest
from peftbench.config.declared_fields import Declared, declared
from peftbench.config.rules import _combinations
from peftbench.config.schema import (
    _KINDS,
    CONFIGS,
    SECTIONS,
    TOP,
    Config,
    Data,
    Method,
    Protocol,
    Sweep,
    _known,
    _mapping,
    _schema,
    _validate,
)
from peftbench.config.task_schema import STRICT, task_path


def validate(values: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """The resolved mapping that Hydra composed, checked section by section.

    Raises:
        UserError: an unknown key, a wrong type, a value outside its choices or a combination that cannot work;
            one sentence that names the key, what was found and what was expected.
    """
    values = dict(values)
    _known(values, [*SECTIONS, *TOP], "")
    for key, kind in TOP.items():
        if type(values.get(key)) is not kind:
            raise UserError(f"{key}={values.get(key)!r}: expected {_KINDS[kind]}.")
    data = _data(values.get("data"))
    task = _mapping(values.get("task"), "task")
    task_path(task)  # says which tasks there are
    if task["name"] not in data.tasks:
        raise UserError(  # before the task's own keys, some of which the data set chooses
            f"task={task['name']}: data={data.name} is made for task={' or '.join(data.tasks)}; leave task= out, the "
            f"data set chooses it."
        )
    sections = {
        "method": _method(values.get("method")),
        "data": data,
        **{n: _section(n, values.get(n)) for n in SECTIONS if n not in ("method", "data")},
    }
    config = Config(**sections, **{k: values[k] for k in TOP}, choices=dict(choices or {}))
    _combinations(config)
    return config


def restored(path: Path, folders: Iterable[Path] = ()) -> Config:
    """The config in a run's `config.yaml`, checked again.

    The method's class is the one that the YAML of its name gives, in peftbench's configs or in `folders`: an import
    path that the file holds is never followed.

    Raises:
        UserError: the file is missing or damaged, or no method is called so.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; give the folder of a run as it was left.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise UserError(f"{path}: cannot be read as YAML ({str(problem).splitlines()[0]}).") from None
    if not isinstance(values, Mapping):
        found = "is empty" if values is None else f"holds {str(values)[:40]!r}"
        raise UserError(f"{path}: {found}; expected the mapping of sections that the run wrote.")
    try:
        values = dict(values)
        _known(values, [f.name for f in fields(Config)], "")
        needed = [f.name for f in fields(Config) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [n for n in needed if n not in values]:
            raise UserError(f"{missing[0]}: is missing.")
        method = dict(_mapping(values["method"], "method"))
        method["path"] = _class_of(method.get("name"), [CONFIGS, *folders])
        config = Config.from_dict({**values, "method": method})
        declared_ = declared(method["path"], "method.path")
        if foreign := [n for n in config.method.options if n not in declared_.fields]:
            known = ", ".join(sorted(declared_.fields)) or "none"
            raise UserError(
                f"method.options.{foreign[0]}: method.name={config.method.name} has no such option; its options "
                f"are {known}."
            )
        options = _options(declared_, config.method.options, "method")
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    return replace(config, method=replace(config.method, options=options))


def _class_of(name: Any, folders: Iterable[Path]) -> str:
    """The import path of the class of the method called `name`."""
    import yaml

    found: dict[str, str] = {}
    for file in (f for folder in folders for f in sorted((folder / "method").glob("**/*.yaml"))):
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            raise UserError(f"{file}: cannot be read as YAML ({str(problem).splitlines()[0]}).") from None
        if isinstance(given, Mapping) and isinstance(given.get("method"), Mapping):  # under @package _global_
            given = given["method"]
        if isinstance(given, Mapping) and "name" in given and isinstance(given.get("path"), str):
            found.setdefault(str(given["name"]), given["path"])
    if name not in found:
        raise UserError(
            f"method.name={name}: there is no YAML of this method{nearest(str(name), found)}; a method of your own "
            f"needs --config-dir DIR, in Python config_dir=DIR."
        )
    return found[str(name)]


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with other values under dotted keys, such as `optimizer.lr` or `method.rank`, checked again.

    Raises:
        UserError: a key that is not there, or a value that its section refuses.
    """
    values = config.to_dict()
    choices, protocol = values.pop("choices"), values.pop("protocol")
    for section in ("method", "data"):  # as the YAML files have them
        values[section] |= values[section].pop("options")
    for key, value in changes.items():
        section, _, name = key.partition(".")
        place = values.get(section) if name else values
        if not isinstance(place, dict) or (name or section) not in place:
            known = [f"{s}.{k}" if k else s for s, v in values.items() for k in (v if isinstance(v, dict) else [""])]
            raise UserError(f"{key}: there is no such key{nearest(key, known)}.")
        place[name or section] = value
    return replace(validate(values, choices), protocol=protocol)


def validate_study(sweep: Any, protocol: Any) -> tuple[Sweep, Protocol]:
    """The sections `sweep` and `protocol`, checked. Raises UserError."""
    found = []
    for name, schema, values in (("sweep", Sweep, sweep), ("protocol", Protocol, protocol)):
        values = _mapping(values, name)
        _known(values, [f.name for f in fields(schema)], f"{name}.")
        found.append(_validate(schema, values, name))
    chosen, rule = found
    for key, value in {
        "sweep.together": chosen.together,
        "protocol.trials": rule.trials,
        "protocol.seeds": rule.seeds,
    }.items():
        if value < 1:
            raise UserError(f"{key}={value}: expected at least 1.")
    return chosen, rule


def _method(values: Any) -> Method:
    values = _mapping(values, "method")
    declared_ = _own(values, "method")
    options = {k: v for k, v in values.items() if k not in ("name", "path", "lr", "grid")}
    if "lr" in values and not isinstance(values["lr"], int | float):
        raise UserError(f"method.lr={values['lr']!r}: expected a number.")
    _known(options, [*declared_.fields, "lr", "grid", "name", "path"], "method.")
    return Method(name=values["name"], path=values["path"], options=_options(declared_, options, "method"))


def _data(values: Any) -> Data:
    values = _mapping(values, "data")
    declared_ = _own(values, "data")
    if "task" in values:  # of a YAML that names one
        values = {**{k: v for k, v in values.items() if k != "task"}, "tasks": [values["task"]]}
    common = [f.name for f in fields(Data) if f.name != "options"]
    _known(values, [*common, *declared_.fields], "data.")
    own = {k: v for k, v in values.items() if k in declared_.fields and k not in common}
    rest = {k: v for k, v in values.items() if k in common}
    return _validate(Data, rest | {"options": _options(declared_, own, "data")}, "data")


def _own(values: Mapping[str, Any], section: str) -> Declared:
    for key in ("name", "path"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{section}.{key}={values.get(key)!r}: expected a string.")
    return declared(values["path"], f"{section}.path")


def _options(declared_: Declared, values: Mapping[str, Any], section: str) -> dict[str, Any]:
    model = create_model("options", __config__=STRICT, **declared_.fields)  # type: ignore[call-overload]
    return _validate(model, values, section).model_dump(mode="json")


def _section(name: str, values: Any) -> Any:
    values = _mapping(values, name)
    schema = _schema(name, values)
    _known(values, [f.name for f in fields(schema)], f"{name}.")
    if isinstance(values.get("precision"), int):  # YAML reads precision=16 as a number
        values = {**values, "precision": str(values["precision"])}
    return _validate(schema, values, name)
