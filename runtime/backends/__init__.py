"""Backends, which execute graphs: one small interface, one module per engine."""

from .base import BACKENDS, Backend, BackendOptions, LoadedGraph, Runner, make_backend

__all__ = ["BACKENDS", "Backend", "BackendOptions", "LoadedGraph", "Runner", "make_backend"]
