"""The fields of a dataclass, read from its source: types and defaults, without importing it.

A method's file imports torch, which takes seconds; reading its source takes milliseconds, so that a wrong option is
answered at once. Only literal defaults, plain types and the bounds of `bounds.py` can be read so, which is the rule for
option fields.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Literal, Union

from peftbench.common.errors import UserError, suggested
from peftbench.config import bounds

Fields = dict[str, tuple[Any, Any]]
"""Name -> (type, default or ...), in pydantic's form."""

_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "None": type(None),
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "Any": Any,
    **{name: getattr(bounds, name) for name in bounds.TYPES},
}


@cache
def declared(path: str, key: str) -> Fields:
    """The fields of the dataclass at the import path `package.module.Class`, inherited ones first.

    Raises:
        UserError: no such module or class, or a field that cannot be read from source; `key` names the config key.
    """
    module, _, class_name = path.rpartition(".")
    tree = _source(module, path, key)
    node = _class_in(tree, class_name)
    if node is not None:
        return _fields_in(node, tree, module, key)
    if elsewhere := _origin(class_name, tree, module):  # a package hands on what one of its modules defines
        return declared(elsewhere, key)
    raise UserError(f"{key}={path}: module {module} has no class '{class_name}'.")


@cache
def class_constant(path: str, name: str, key: str) -> Any:
    """The value of the class attribute `name` at the import path `package.module.Class`, inherited where need be.

    Raises:
        UserError: as `declared`; or the class has no such attribute with a literal value.
    """
    module, _, class_name = path.rpartition(".")
    tree = _source(module, path, key)
    node = _class_in(tree, class_name)
    if node is None:
        if elsewhere := _origin(class_name, tree, module):
            return class_constant(elsewhere, name, key)
        raise UserError(f"{key}={path}: has no class attribute {name}.")
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == name:
            return None if item.value is None else ast.literal_eval(item.value)
    for base in _bases(node, tree, module):
        return class_constant(base, name, key)
    raise UserError(f"{key}={path}: has no class attribute {name}.")


def _source(module: str, path: str, key: str) -> ast.Module:
    try:
        spec = _spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        hint = suggested("data.root") if key == "data.path" and os.path.exists(os.path.expanduser(path)) else ""
        raise UserError(
            f"{key}={path}: expected the import path of a class{hint}, such as peftbench.methods.lora.LoRA."
        )
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _spec(module: str) -> ModuleSpec | None:
    """Where a module lies. Python's own look-up imports the packages that it is in, of which some import torch."""
    name, *inner = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec or importlib.util.find_spec(module)  # for packages of other finders


def _class_in(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _fields_in(node: ast.ClassDef, tree: ast.Module, module: str, key: str) -> Fields:
    fields: Fields = {}
    for base in _bases(node, tree, module):
        fields |= declared(base, key)
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(item.annotation):
            continue
        try:
            default = ... if item.value is None else ast.literal_eval(item.value)
            fields[item.target.id] = (_type(item.annotation), default)
        except (ValueError, KeyError):
            raise UserError(
                f"{key}: {module}.{node.name}.{item.target.id} needs a plain type and a literal default."
            ) from None
    return fields


def _bases(node: ast.ClassDef, tree: ast.Module, module: str) -> list[str]:
    """The import paths of a class's bases, as far as the source says where they come from."""
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return [path for path in (_origin(name, tree, module) for name in names) if path]


def _origin(name: str, tree: ast.Module, module: str) -> str | None:
    """The import path of the class called `name` in `tree`, if the tree says where it comes from."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"{module}.{name}"
        if isinstance(node, ast.ImportFrom) and node.module and any(a.name == name for a in node.names):
            return f"{node.module}.{name}"
    return None


def _type(node: ast.expr) -> Any:
    """A type from its syntax: int, float | None, tuple[int, ...], Literal['a', 'b'], dict[str, int]."""
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.Name):
        return _PLAIN[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_type(node.left), _type(node.right)]  # noqa: UP007 - built at run time
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(ast.literal_eval(i) for i in items)]
        inner = [... if isinstance(i, ast.Constant) and i.value is ... else _type(i) for i in items]
        return _PLAIN[node.value.id][tuple(inner)]
    raise ValueError(ast.unparse(node))
