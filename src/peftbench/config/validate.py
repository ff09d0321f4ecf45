"""From plain mappings to a checked config."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.regular_files import text_in
from peftbench.config.declared_fields import Fields, declared
from peftbench.config.identity import identity
from peftbench.config.messages import KINDS, refuse_unreadable, shown
from peftbench.config.named_paths import data_path, method_path, own_task_path
from peftbench.config.near_keys import dotted_keys, near_key_hint
from peftbench.config.rules import check_rules
from peftbench.config.schema import (
    MAY_BE_NULL,
    SECTIONS,
    TOP,
    Config,
    Data,
    Method,
    Protocol,
    Sweep,
    checked_part,
    with_tasks,
)
from peftbench.config.sections import checked_section, mapping_of, refuse_unknown_keys
from peftbench.config.task_schema import STRICT, task_path


def validate(values: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """The resolved mapping that Hydra composed, checked section by section.

    Raises:
        UserError: an unknown key, a wrong type, a value outside its choices or a combination that cannot work;
            one sentence that names the key, what was found and what was expected.
    """
    known = [*SECTIONS, *TOP]
    refuse_unknown_keys(values, known, "", dotted_keys({key: values[key] for key in known if key in values}))
    for key, kind in TOP.items():
        refuse_unreadable(key, values.get(key))
        if type(values.get(key)) is not kind and not (key in MAY_BE_NULL and values.get(key) is None):
            raise UserError(f"{key}={shown(values.get(key))}: expected {KINDS[kind]}.")
    data = _data_section(values.get("data"))
    _refuse_task_not_served(mapping_of(values.get("task"), "task"), data)
    sections = {
        "method": method_section(values.get("method")),
        "data": data,
        **{name: _plain_section(name, values.get(name)) for name in SECTIONS if name not in ("method", "data")},
    }
    top: dict[str, Any] = {key: values.get(key) for key in TOP}
    top["output_dir"] = os.path.expanduser(top["output_dir"])
    config = Config(**sections, **top, choices=dict(choices or {}))
    check_rules(config)
    return config


def validate_study(sweep: Any, protocol: Any) -> tuple[Sweep, Protocol]:
    """The sections `sweep` and `protocol`, checked. Raises UserError."""
    return (
        checked_section(Sweep, mapping_of(sweep, "sweep"), "sweep"),
        checked_section(Protocol, _protocol_values(protocol), "protocol"),
    )


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
            raise UserError(f"{key}: there is no such key{near_key_hint(key, known)}.")
        place[name or section] = value
    return replace(validate(values, choices), protocol=protocol)


def restored(path: Path, folders: Iterable[Path] = ()) -> Config:
    """The config in a run's `config.yaml`, checked again.

    The classes of its method and data set and the package of its task are those that YAML files give these names, in
    peftbench's configs or in `folders`: an import path that the file holds is never followed.

    Raises:
        UserError: the file is missing or damaged, or no method or task is called so.
    """
    folders = list(folders)
    paths = {"method": method_path, "data": data_path, "task": own_task_path}
    return _restored(path, lambda section, name: paths[section](name, folders))


def is_of_same_run(path: Path, config: Config) -> bool:
    """Whether the `config.yaml` at `path` is whole and says all that decides the numbers as `config` does."""
    try:
        return identity(_restored(path, lambda section, _: getattr(config, section).path)) == identity(config)
    except UserError:
        return False


def _restored(path: Path, path_of: Callable[[str, Any], str]) -> Config:
    """As `restored`; `path_of` gives the import path of a section that has a name."""
    values = _run_file(path)
    try:
        refuse_unknown_keys(values, [f.name for f in fields(Config)], "")
        needed = [f.name for f in fields(Config) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in values]:
            raise UserError(f"{missing[0]}: is missing.")
        for section in ("method", "data", "task"):
            name = mapping_of(values[section], section).get("name")
            values[section] = {**values[section], "path": path_of(section, name)}
        config = Config.from_dict(values)
        options = _method_options(config.method)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
    return replace(config, method=replace(config.method, options=options))


def _run_file(path: Path) -> dict[str, Any]:
    """What a run's `config.yaml` holds. Raises UserError."""
    import yaml

    from peftbench.common.yaml_text import yaml_of

    try:
        values = yaml_of(text_in(path))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; give the folder of a run as it was left.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        why = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
        raise UserError(f"{path}: cannot be read as YAML ({why}).") from None
    if not isinstance(values, Mapping):
        content = "is empty" if values is None else f"holds {shortened(str(values), 40)!r}"
        raise UserError(f"{path}: {content}; expected the mapping of sections that the run wrote.")
    return dict(values)


def _method_options(method: Method) -> dict[str, Any]:
    """The options of a method, checked against its class. Raises UserError."""
    class_fields = declared(method.path, "method.path")
    if foreign := [name for name in method.options if name not in class_fields]:
        known = ", ".join(sorted(class_fields)) or "none"
        raise UserError(
            f"method.options.{foreign[0]}: method.name={method.name} has no such option; its options are {known}."
        )
    return _checked_options(method.path, method.options, "method")


def _refuse_task_not_served(task: Mapping[str, Any], data: Data) -> None:
    """Before the task's own keys, some of which the data set chooses."""
    task_path(task)  # says which tasks there are
    if task["name"] not in data.tasks:
        raise UserError(
            f"task={task['name']}: data={data.name} is made for task={' or '.join(data.tasks)}; leave task= out, the "
            f"data set chooses it."
        )


def _protocol_values(values: Any) -> Mapping[str, Any]:
    """The section `protocol`. Raises UserError where a method is named by the key that holds a method's section."""
    values = mapping_of(values, "protocol")
    if isinstance(name := values.get("told_by"), str):
        raise UserError(
            f"protocol.told_by={shown(name)}: holds a method's options, or null; a method is named by "
            f"method@protocol.told_by={shortened(name)}."
        )
    return values


def method_section(values: Any) -> Method:
    """A method's section as its YAML has it, checked against its class. Raises UserError."""
    values = mapping_of(values, "method")
    class_fields = _fields_of_class(values, "method")
    options = {key: value for key, value in values.items() if key not in ("name", "path", "lr", "grid")}
    if "lr" in values and not isinstance(values["lr"], int | float):
        raise UserError(f"method.lr={shown(values['lr'])}: expected a number.")
    refuse_unknown_keys(options, [*class_fields, "lr", "grid", "name", "path"], "method.")
    return Method(name=values["name"], path=values["path"], options=_checked_options(values["path"], options, "method"))


def _data_section(values: Any) -> Data:
    values = mapping_of(values, "data")
    if isinstance(count := values.get("tasks"), int):
        raise UserError(
            f"data.tasks={count}: expected the tasks that a data set serves, such as [classification]; groups of "
            f"classes that are learned one after the other are data.class_groups={count}, with protocol=continual."
        )
    class_fields = _fields_of_class(values, "data")
    values = with_tasks(values)
    common = [f.name for f in fields(Data) if f.name != "options"]
    refuse_unknown_keys(values, [*common, *class_fields], "data.")
    options = {key: value for key, value in values.items() if key in class_fields and key not in common}
    shared = {key: value for key, value in values.items() if key in common}
    return checked_section(Data, {**shared, "options": _checked_options(values["path"], options, "data")}, "data")


def _plain_section(name: str, values: Any) -> Any:
    """A section without a class of its own. Raises UserError."""
    values = mapping_of(values, name)
    if isinstance(values.get("precision"), int):  # YAML reads precision=16 as a number
        values = {**values, "precision": str(values["precision"])}
    return checked_part(name, values)


def _fields_of_class(values: Mapping[str, Any], section: str) -> Fields:
    """The fields of the class that a section names. Raises UserError."""
    for key in ("name", "path"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{section}.{key}={shown(values.get(key))}: expected a string.")
    return declared(values["path"], f"{section}.path")


def _checked_options(path: str, values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The options of the class at an import path. Raises UserError."""
    return checked_section(_options_model(path, f"{section}.path"), values, section).model_dump(mode="json")


@cache
def _options_model(path: str, key: str) -> Any:
    return create_model("options", __config__=STRICT, **declared(path, key))  # type: ignore[call-overload]
