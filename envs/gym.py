"""Gymnasium's own registry, `gym/<id>`, third-party packages that register there included."""

import io
import os
import re
import traceback
from contextlib import redirect_stderr, suppress
from importlib import import_module

import gymnasium

from envs.config import EnvConfig
from envs.registry import Suite, closed_on_error, unknown_environment
from envs.rendering import RenderingUnavailable, mujoco_renderer_of, select_gl_backend

# Gymnasium's registry says nothing about spaces; these of its own are left out of the list because
# they give pictures or discrete observations, or they are bridges that need arguments.
NOT_LISTED = {
    *(
        "CarRacing",
        "Blackjack",
        "FrozenLake",
        "FrozenLake8x8",
        "CliffWalking",
        "CliffWalkingSlippery",
        "Taxi",
    ),
    *("GymV21Environment", "GymV26Environment"),
}

# What Python says of a constructor without that argument, or without any.
NO_RENDER_MODE = re.compile("unexpected keyword argument 'render_mode'|takes no arguments")


def load(task: str, config: EnvConfig, render: bool) -> gymnasium.Env:
    """Make the Gymnasium id `task`, truncated after `config.episode_frames` or its own limit.

    Raises ValueError, in one line, for unknown ids and for packages that are not installed,
    RenderingUnavailable if `render` is asked for and the environment draws no pictures.
    """
    if not _registered(task):
        raise unknown_environment(config.name)
    known = gymnasium.registry.get(task)
    if render and known is not None and "mujoco" in str(known.entry_point):
        select_gl_backend()  # before mujoco is imported, which fails if MUJOCO_GL is unusable
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory, not a window
    options = {"render_mode": "rgb_array"} if render else {}
    try:
        env = gymnasium.make(task, config.episode_frames, disable_env_checker=True, **options)
    except Exception as error:  # of whatever kind: the code is someone else's
        if render and isinstance(error, TypeError) and NO_RENDER_MODE.search(str(error)):
            raise RenderingUnavailable(
                f"cannot render: {config.name} takes no render_mode"
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name:
            reason = f"the Python package {error.name!r} is not installed"
        elif isinstance(error, gymnasium.error.Error | ImportError):
            reason = " ".join(str(error).split())
        else:
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{error!r} in {place.filename}, line {place.lineno}"
        raise ValueError(f"environment {config.name!r} cannot be made: {reason}") from error
    with closed_on_error(env):
        if render and env.render_mode != "rgb_array":
            raise RenderingUnavailable(f"cannot render: {config.name} draws no rgb_array pictures")
        if render and mujoco_renderer_of(env) is not None:
            select_gl_backend()  # of other packages, before it draws
    return env


def _registered(task: str) -> bool:
    """Whether Gymnasium or, where it is installed, Gymnasium-Robotics has an id `task`."""
    # "module:Id" imports a module that registers the id, as it does in gymnasium.make.
    if ":" not in task and task not in gymnasium.registry:
        with suppress(ModuleNotFoundError):
            register_robotics()
    return ":" in task or task in gymnasium.registry


def register_robotics() -> None:
    """Add Gymnasium-Robotics to Gymnasium's registry. Raises ModuleNotFoundError without it."""
    with redirect_stderr(io.StringIO()):  # news about a few of its environments
        robotics = import_module("gymnasium_robotics")
    gymnasium.register_envs(robotics)


def tasks() -> list[str]:
    """Return the newest version of each registered id that we may handle; imports nothing."""
    newest: dict[tuple[str | None, str], gymnasium.envs.registration.EnvSpec] = {}
    for spec in gymnasium.registry.values():
        key = (spec.namespace, spec.name)
        if spec.name not in NOT_LISTED and (spec.version or 0) >= (
            newest[key].version or 0 if key in newest else 0
        ):
            newest[key] = spec
    return [spec.id for spec in newest.values()]


SUITE = Suite(load=load, tasks=tasks)
