"""torch.compile where it pays, with a clean fall back to eager where there is no compiler."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch._dynamo.config
import torch._functorch.config
from torch import Tensor
from torch.utils._pytree import tree_map_only

logger = logging.getLogger(__name__)

# Two threads that trace with autocast at once can wait for each other for ever: one holds the lock
# of its cache and wants the interpreter's, the other the other way round (seen with torch 2.13).
_compiling = threading.RLock()
# `torch.autograd.grad` within a function is compiled with it; older versions cannot.
_TRACING = (
    {"trace_autograd_ops": True} if hasattr(torch._dynamo.config, "trace_autograd_ops") else {}
)
# So is the gradient of what it returns, which would else be compiled, and fail, in `backward`.
_LOWERING = {"force_non_lazy_backward_lowering": True}

F = TypeVar("F", bound=Callable[..., Any])


def compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would use, None if there is none.

    For a GPU it needs a C compiler, which comes with that.
    """
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")


@functools.cache
def _warn_of_missing_compiler() -> None:
    """Say it once per process, however many functions would have been compiled."""
    logger.warning("no C++ compiler found (g++ or clang++): running without torch.compile")


def _device_type(arguments: Iterable[Any]) -> str:
    """That of the first tensor among the arguments of a call, "cpu" if there is none."""
    return next((x.device.type for x in arguments if isinstance(x, Tensor)), "cpu")


def _records_graphs() -> bool:
    """Whether this thread can record CUDA graphs.

    Before torch 2.13 only the one that imported it can, and an assertion ends all others.
    """
    from torch._inductor import cudagraph_trees

    everywhere = hasattr(cudagraph_trees, "_initialize_tls")
    return everywhere or torch._C._is_key_in_tls("tree_manager_containers")


def _compile(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """`function` by torch.compile, for a type of device.

    A C++ wrapper saves much on a CPU; on a GPU such code fails: `backward` runs in a thread without
    a CUDA context, and C++ alone makes none. There small models leave most of the time to the
    launching of kernels, which a CUDA graph does all at once.
    """
    if kind == "cuda" and _records_graphs():
        graph = torch.compile(function, dynamic=False, options={"triton.cudagraphs": True})
        # The next replay writes into the same memory.
        return lambda *args, **kwargs: tree_map_only(Tensor, torch.clone, graph(*args, **kwargs))
    return torch.compile(function, dynamic=False, options={"cpp_wrapper": kind == "cpu"})


def compiled(function: F, enabled: bool = True) -> F:
    """`function` compiled for fixed shapes; the function itself if disabled or not possible.

    A compiler that is absent or fails costs one warning, never the run.
    """
    if not enabled:
        return function
    if compiler() is None:
        _warn_of_missing_compiler()
        return function
    chosen: list[Any] = []  # what to call, from the first call on

    def call(*args: Any, **kwargs: Any) -> Any:
        if chosen:
            return run(*args, **kwargs)
        with _compiling:
            chosen.append(_compile(function, _device_type(args)))
            return run(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        if chosen[0] is function:
            return function(*args, **kwargs)
        try:
            lowering = torch._functorch.config.patch(_LOWERING)
            with lowering, torch._dynamo.config.patch(_TRACING):
                return chosen[0](*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("torch.compile failed, running without it: %s", reason)
            chosen[0] = function
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]
