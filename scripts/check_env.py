"""`telic check-env`: whether an environment is fit for training, before hours go into it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from envs import EnvConfig, make_env, spec_of
from scripts.option_help import layout, option_rows
from scripts.settings import load, require_seed
from scripts.terminal import console as make_console
from scripts.terminal import verdict
from scripts.usage import first_line, usage_errors

STEPS = 200  # control steps that are tried


@dataclass(frozen=True)
class CheckSettings:
    """Options of `telic check-env`."""

    env: EnvConfig = field(default_factory=EnvConfig)
    seed: int = 0  # of the episode that is repeated

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_seed(self.seed)


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    return layout(option_rows(CheckSettings()))


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Print what was found; returns 0 if the environment passes, else 1. Raises UsageError."""
    settings = load(CheckSettings, files, overrides)
    with usage_errors():
        env, again = make_env(settings.env), make_env(settings.env)
    console, spec = make_console(), spec_of(env)
    limit = "no time limit" if spec.episode_steps is None else f"{spec.episode_steps} per episode"
    console.print(
        f"{spec.name}: {spec.observations}, {spec.actions}, "
        f"{1000 * spec.control_period:g} ms per control step ({limit})"
    )
    problem = _gymnasium_finds(env)
    console.print(verdict("fails" if problem else "ok", f"Gymnasium's check_env{problem}"))
    if problem:
        return 1
    started = time.perf_counter()
    first = _episode(env, settings.seed)
    seconds = (time.perf_counter() - started) / len(first)
    same = np.array_equal(first, _episode(again, settings.seed))
    console.print(verdict("ok" if same else "fails", "a seed reproduces an episode bit for bit"))
    console.print(f"         {1000 * seconds:.2f} ms of computation per control step")
    return 0 if same else 1


def _gymnasium_finds(env: gymnasium.Env[np.ndarray, np.ndarray]) -> str:
    """What Gymnasium's own checker has to say, empty if nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(env, skip_render_check=True, skip_close_check=True)
    except Exception as error:  # noqa: BLE001  the checker raises anything
        return f": {first_line(error)}"
    return ""


def _episode(env: gymnasium.Env[np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    """Observations and rewards of up to STEPS random control steps, (T, O + 1)."""
    rng = np.random.default_rng(seed)
    shape = env.action_space.shape
    rows = []
    env.reset(seed=seed)
    for _ in range(STEPS):
        action = rng.uniform(-1, 1, shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(obs, float(reward)))
        if terminated or truncated:
            break
    return np.array(rows)
