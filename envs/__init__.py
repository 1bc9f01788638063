"""Environments by name, all of them `gymnasium.Env` with float32 vectors in and out.

`make_env("dmc/cartpole-swingup")` gives observations (O,) and takes actions (A,) in [-1, 1], or
one-hot where they are discrete; one step is one control step. Importing this package loads no
simulator.
"""

from envs.config import EnvConfig, EnvSpec
from envs.make import make_env, spec_of
from envs.registry import Suite, env_names, open_names
from envs.rendering import RenderingUnavailable, select_gl_backend

__all__ = [
    "EnvConfig",
    "EnvSpec",
    "RenderingUnavailable",
    "Suite",
    "env_names",
    "make_env",
    "open_names",
    "select_gl_backend",
    "spec_of",
]
