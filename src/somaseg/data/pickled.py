"""Look into a pickle of NumPy arrays without running it.

A pickle is a program: it may name any function and have it called. Here its instructions are read,
not followed: containers, numbers, texts and arrays are made of the bytes that lie in the file, and
whatever else it names becomes an :class:`Unknown` that does nothing. So nothing is executed, and no
more memory taken than the file is long.
"""

import math
import pickletools
from typing import Any

import numpy as np

_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


class Unknown:
    """What a pickle names that is no array, container, number or text."""


class _Named:
    """A function or class, by name; it is never looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Typed:
    """A dtype to be."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = str(code), "="


class _Array:
    """An array to be: its state comes later."""

    def __init__(self) -> None:
        self.value: Any = Unknown()


def read_pickled(data: bytes) -> Any:
    """Return what a pickle of protocol 2 to 5 holds.

    Raises:
        ValueError: damaged, or instructions that such pickles do not have.
    """
    return _finished(_Machine().run(data))


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("it has no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self.taken(_TUPLES[name])))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self.marked()))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS"):
            values = self.marked() if name == "APPENDS" else self.taken(1)
            _of(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self.marked() if name == "SETITEMS" else self.taken(2)
            for key, value in zip(values[::2], values[1::2], strict=True):
                _of(stack[-1], dict)[_of(key, str)] = value
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            if argument is not None and argument != len(self.memo):
                raise ValueError("its memo is out of order")
            self.memo.append(stack[-1])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_Named(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(_Named(".".join(map(str, self.taken(2)))))
        elif name == "REDUCE":
            function, arguments = self.taken(2)
            stack.append(_made(function, arguments))
        elif name == "BUILD":
            (state,) = self.taken(1)
            _build(stack[-1], state)
        elif argument is not None and not name.startswith(("EXT", "PERSID", "INST", "GET", "PUT")):
            stack.append(argument)  # numbers, texts and bytes
        else:
            raise ValueError(f"its instruction {name} is none of an array's")

    def taken(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("it takes more than it has")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def marked(self) -> list[Any]:
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise ValueError("it takes more than it has")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} is expected")
    return value


def _made(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Named) else ""
    if name in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
        return _Array()
    if name == "numpy.dtype" and isinstance(arguments, tuple) and arguments:
        return _Typed(arguments[0])
    return Unknown()


def _build(made: Any, state: Any) -> None:
    if isinstance(made, _Typed):
        made.order = _of(_of(state, tuple)[1], str)
    elif isinstance(made, _Array):
        _, shape, kind, columns_first, content = _of(state, tuple)
        typed = _of(kind, _Typed)
        if typed.code in ("O", "O8"):
            made.value = _of(content, list)
            return
        dtype = np.dtype(typed.code)
        if dtype.kind not in "biuf":
            return
        if dtype.byteorder != "|":
            dtype = dtype.newbyteorder(typed.order if typed.order in "<>" else "=")
        sides = [_of(side, int) for side in _of(shape, tuple)]
        # Bytes are in the file, so an array cannot be larger than it.
        if math.prod(sides) * dtype.itemsize != len(_of(content, bytes)):
            raise ValueError("an array is not as large as it claims")
        flat = np.frombuffer(content, dtype)
        made.value = flat.reshape(sides, order="F" if columns_first else "C")


def _finished(value: Any) -> Any:
    """Put arrays in the place of what stood for them, one level down."""
    if isinstance(value, _Array):
        value = value.value
    if isinstance(value, dict):
        return {k: v.value if isinstance(v, _Array) else v for k, v in value.items()}
    if isinstance(value, list):
        return [_finished(part) for part in value]
    return value
