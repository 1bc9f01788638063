"""`telic doctor`: what this machine can do, and what to install for the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from envs import RenderingUnavailable, make_env, select_gl_backend
from mpc.compilation import compiler
from scripts.hardware import cpu_name
from scripts.metrics import wandb_mode
from scripts.terminal import console as make_console
from scripts.terminal import verdict
from scripts.usage import UsageError
from scripts.version import code_version


class Missing(Exception):
    """Something that telic can do without, and how to get it."""


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Print one line per check; returns 0 if training and control can run, else 1."""
    if overrides:
        raise UsageError(f"telic doctor takes no options, got {' '.join(overrides)!r}")
    console = make_console()
    healthy = True
    for name, check, needed in CHECKS:
        try:
            console.print(verdict("ok", f"{name}: {check()}"))
        except Missing as error:
            console.print(verdict("missing", f"{name}: {error}"))
        except Exception as error:  # noqa: BLE001  whatever is broken is what we are here to say
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            console.print(verdict("broken", f"{name}: {reason}"))
            healthy = healthy and not needed
    return 0 if healthy else 1


def _versions() -> str:
    names = ("torch", "gymnasium", "dm-control", "mujoco", "wandb", "omegaconf")
    return f"telic {code_version()}, " + ", ".join(f"{name} {version(name)}" for name in names)


def _machine() -> str:
    gpus = torch.cuda.device_count()
    metal = ", Metal" if torch.backends.mps.is_available() else ""
    return (
        f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores of "
        f"{cpu_name()}, {gpus} CUDA GPUs{metal}"
    )


def _compiler() -> str:
    path = compiler()
    if path is None:
        raise Missing("no C++ compiler, so training runs without torch.compile; install g++")
    return path


def _rendering() -> str:
    try:
        return select_gl_backend()
    except RenderingUnavailable as error:
        raise Missing(str(error)) from None


def _environment() -> str:
    env = make_env("dmc/cartpole-swingup")
    env.reset(seed=0)
    _, reward, *_ = env.step(env.action_space.sample())
    return f"dmc/cartpole-swingup steps (reward {float(reward):.3f})"


def _wandb() -> str:
    import wandb

    mode = wandb_mode("auto")
    if mode == "online":
        return mode
    asked = wandb.setup().settings.mode == mode
    why = "as WANDB_MODE or your W&B settings say" if asked else "no key configured"
    return f"{mode}: {why}" + ", runs are kept for wandb sync" * (mode == "offline")


def _writable() -> str:
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        raise Missing(f"{here} is not writable; choose another folder with runs=")
    return f"run folders go to {here / 'runs'}"


CHECKS: tuple[tuple[str, Callable[[], str], bool], ...] = (
    ("packages", _versions, True),
    ("machine", _machine, True),
    ("C++ compiler", _compiler, False),
    ("environment", _environment, True),
    ("rendering", _rendering, False),
    ("W&B", _wandb, False),
    ("folder", _writable, False),
)
