"""Other libraries' configs, read as data: detectron2's YAML, MMDetection's Python. Nothing is run.

Python configs are parsed, not imported: literals, ``dict(...)``, names that were assigned before,
plain sums and ``_base_`` are understood. Anything else has no value, and matters only if it is
asked for.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from somaseg.errors import SomasegError


class Unknown:
    """The value of an expression that is not data."""


UNKNOWN = Unknown()
_SUMS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _PlainLoader(yaml.SafeLoader):
    """YAML without objects: what asks for one has no value."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: UNKNOWN)


def read_config(path: str | Path) -> tuple[str, dict[str, Any], list[str]]:
    """Read a config with those that it builds on.

    Returns:
        detectron2 or mmdet; the config; files that it builds on and that are not there.

    Raises:
        SomasegError: missing, of another kind, or not to be parsed.
    """
    path = Path(path)
    missing: list[str] = []
    if path.suffix in (".yaml", ".yml"):
        return "detectron2", _read_yaml(path, missing, ()), missing
    if path.suffix == ".py":
        return "mmdet", _read_python(path, missing, ()), missing
    raise SomasegError(
        f"{path}: a config is detectron2's (.yaml) or MMDetection's (.py); give one of these"
    )


def parse_python(text: str, where: str) -> dict[str, Any]:
    """Read the assignments of an MMDetection config that builds on no other.

    Raises:
        SomasegError: it is no Python.
    """
    return _assigned(text, where, {})


def _read_yaml(path: Path, missing: list[str], within: tuple[Path, ...]) -> dict[str, Any]:
    try:
        fields = yaml.load(_text(path, within), _PlainLoader)
    except yaml.YAMLError as error:
        raise SomasegError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise SomasegError(f"{path}: no config of detectron2")
    base = fields.pop("_BASE_", None)
    if not isinstance(base, str):
        return fields
    if not (path.parent / base).is_file():
        missing.append(base)
        return fields
    return _merged(_read_yaml(path.parent / base, missing, (*within, path)), fields)


def _read_python(path: Path, missing: list[str], within: tuple[Path, ...]) -> dict[str, Any]:
    text = _text(path, within)
    base: dict[str, Any] = {}
    named = _assigned(text, str(path), {}).get("_base_") or []
    for name in [named] if isinstance(named, str) else named:
        if isinstance(name, str) and (path.parent / name).is_file():
            base = _merged(base, _read_python(path.parent / name, missing, (*within, path)))
        else:
            missing.append(str(name))
    return _merged(base, _assigned(text, str(path), base))


def _text(path: Path, within: tuple[Path, ...]) -> str:
    if path in within or len(within) > 20:
        raise SomasegError(f"{path}: builds on itself")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SomasegError(f"{path}: cannot be read ({error})") from error


def _merged(base: Any, fields: Any) -> Any:
    """Lay a config over the one that it builds on, as both libraries do."""
    if not isinstance(base, dict) or not isinstance(fields, dict):
        return fields
    if fields.get("_delete_"):
        return {key: value for key, value in fields.items() if key != "_delete_"}
    out = dict(base)
    for key, value in fields.items():
        out[key] = _merged(base[key], value) if key in base else value
    return out


def _assigned(text: str, where: str, base: dict[str, Any]) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SomasegError(f"{where}: no Python config ({error})") from error
    known: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                value = _value(statement.value, {**base, **known})
            except RecursionError as error:
                raise SomasegError(f"{where}: no Python config (too deep)") from error
            known[statement.targets[0].id] = value
    return known


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, known) for part in parts]
        case ast.Name(id=name):
            return known.get(name, UNKNOWN)
        case ast.Attribute(value=ast.Name(id="_base_"), attr=name):
            return known.get(name, UNKNOWN)
        case ast.Dict(keys=keys, values=values):
            return _pairs(
                [(None if key is None else _value(key, known)) for key in keys], values, known
            )
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _pairs([k.arg for k in keywords], [k.value for k in keywords], known)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, known)
            return -value if isinstance(value, int | float) else UNKNOWN
        case ast.BinOp(op=sign, left=left, right=right):
            one, other = _value(left, known), _value(right, known)
            numbers = isinstance(one, int | float) and isinstance(other, int | float)
            if not numbers or type(sign) not in _SUMS or (other == 0 and isinstance(sign, ast.Div)):
                return UNKNOWN
            return _SUMS[type(sign)](one, other)
        case ast.Subscript(value=inner, slice=index):
            try:
                return _value(inner, known)[_value(index, known)]
            except (TypeError, KeyError, IndexError):
                return UNKNOWN
    return UNKNOWN


def _pairs(keys: list[Any], values: list[ast.expr], known: Mapping[str, Any]) -> Any:
    out: dict[str, Any] = {}
    for key, node in zip(keys, values, strict=True):
        value = _value(node, known)
        if key is not None:
            out[str(key)] = value
        elif isinstance(value, dict):  # **other
            out |= value
    return out
