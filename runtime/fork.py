"""Fork: what holds sessions lets go of them in a child of its process, where they are of no use.

A child has the memory of its parent, but none of its threads: a session may wait for ever for the
threads it computes with, a lock for the thread that held it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

Value = TypeVar("Value")


_HOLDERS: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def register(holder: Value, begin_anew: Callable[[Value], None]) -> None:
    """Call `begin_anew(holder)` in every child that is forked from now on, while it lives.

    It must neither run nor free what was opened before; `abandon` keeps that.
    """
    _HOLDERS[holder] = begin_anew


def abandon(thing: object) -> None:
    """Never free something, not even at the end of the process: that too would wait for threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Lazy(Generic[Value]):
    """Property that is made when it is first wanted: `functools.cached_property` without the lock
    that it has before Python 3.12, which all instances share and a child would find locked."""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, owner: type | None = None) -> Value:
        value: Value = self._make(holder)
        holder.__dict__[self._name] = value
        return value


def _in_child() -> None:
    for holder, begin_anew in tuple(_HOLDERS.items()):
        begin_anew(holder)


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_in_child)
