"""`make_env`, the order of the wrappers, and the spec of what came out."""

import math
import os

import gymnasium
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.config import EnvConfig, EnvSpec
from envs.pixels import NUMBERS, STACK, PixelObservation
from envs.registry import Suite, closed_on_error, find_suite
from envs.rendering import RenderingUnavailable, gl_backend_works, picture_of
from envs.spaces import check_actions, check_observations, choices_of, observation_labels
from envs.wrappers import (
    ActionBlock,
    ChosenAction,
    Described,
    RepeatAction,
    UnitAction,
    flatten_observation,
)


def make_env(config: EnvConfig | str, render: bool = False) -> gymnasium.Env:
    """Make the environment that the agent sees: Box(-inf, inf, (O,)), Box(-1, 1, (A,)), float32.

    With `obs: pixels`, observations are Box(0, 255, (O,)), uint8 (see `PixelObservation`). With
    discrete actions Box(0, 1, (A,)): one-hot groups, of which the largest number is chosen.
    One step is one control step. With `render`, `env.render()` returns (height, width, 3) uint8.
    Raises ValueError, in one line, for names, options or spaces that cannot be used, and
    RenderingUnavailable if `render` is asked for and no picture can be made.
    """
    if isinstance(config, str):
        config = EnvConfig(name=config)
    try:
        return _make(config, render)
    except RenderingUnavailable as error:
        if render:
            raise
        raise ValueError(f"env.obs=pixels: {error}") from error


def _make(config: EnvConfig, render: bool) -> gymnasium.Env:
    pixels = config.obs == "pixels"
    suite, native = _load(config, render or pixels)
    with closed_on_error(native):
        check_actions(config.name, native)
        if not pixels:
            check_observations(config.name, native)
        env = _wrapped(native, _describe(native, config, suite), pixels)
    if render or pixels:
        with closed_on_error(env):
            _draw_once(env, render)
    return env


def _wrapped(env: gymnasium.Env, spec: EnvSpec, pixels: bool) -> gymnasium.Env:
    """What stands between a native environment and the agent, innermost first."""
    env = RepeatAction(env, spec.action_repeat)
    env = ChosenAction(env) if spec.choices else UnitAction(env)
    if spec.action_block > 1:
        env = ActionBlock(env, spec.action_block)
    env = PixelObservation(env) if pixels else flatten_observation(env)
    return Described(env, spec)


def _load(config: EnvConfig, render: bool) -> tuple[Suite, gymnasium.Env]:
    """The suite of an environment and the environment as the suite makes it."""
    try:
        suite, task = find_suite(config.name)
        return suite, suite.load(suite.canonical(task), config, render)
    except RenderingUnavailable:
        raise
    except (RuntimeError, ImportError, AttributeError) as error:
        # MuJoCo and dm_control read MUJOCO_GL when they are imported, even if nothing is drawn.
        chosen = os.environ.get("MUJOCO_GL")
        if not chosen or gl_backend_works(chosen):
            raise
        raise ValueError(
            f"cannot load {config.name}: MUJOCO_GL={chosen} does not work here; unset it"
        ) from error


def spec_of(env: gymnasium.Env) -> EnvSpec:
    """Return the spec of an environment that `make_env` made, through any further wrappers.

    Raises ValueError for other environments.
    """
    if not env.has_wrapper_attr("telic_spec"):
        raise ValueError(f"{env} was not made by make_env, so it has no EnvSpec")
    spec: EnvSpec = env.get_wrapper_attr("telic_spec")
    return spec


def _describe(env: gymnasium.Env, config: EnvConfig, suite: Suite) -> EnvSpec:
    prefix, _, task = config.name.partition("/")
    actions, choices = env.action_space, choices_of(env.action_space)
    box = actions if isinstance(actions, spaces.Box) else spaces.Box(0.0, 1.0, (0,))
    usual = getattr(env.unwrapped, "action_repeat", suite.action_repeat)
    repeat, block = config.action_repeat or usual, config.action_block
    frames = _frame_limit(env, config)
    labels = None
    if config.obs == "state":
        native = env.observation_space
        labels = getattr(env.unwrapped, "obs_names", None) or observation_labels(native)
    return EnvSpec(
        name=f"{prefix}/{suite.canonical(task)}",
        obs_dim=STACK * NUMBERS if labels is None else len(labels),
        action_dim=block * (sum(choices) or math.prod(box.shape)),
        action_repeat=repeat,
        control_period=_frame_seconds(env) * repeat * block,
        episode_steps=math.ceil(frames / (repeat * block)) if frames else None,
        action_low=block * tuple(box.low.ravel().tolist()),
        action_high=block * tuple(box.high.ravel().tolist()),
        obs_names=labels,
        choices=block * choices,
        pictures=STACK if labels is None else 0,
        goal_dim=0 if labels is None else getattr(env.unwrapped, "goal_dim", 0),
        action_block=block,
    )


def _frame_limit(env: gymnasium.Env, config: EnvConfig) -> int | None:
    """Env frames after which an episode is truncated; None where nothing says so.

    A `TimeLimit` counts even where it stands around an environment without a Gymnasium spec.
    """
    limits, spec = [], env.spec
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    if limits:
        return min(limits)
    return spec.max_episode_steps if spec else config.episode_frames


def _frame_seconds(env: gymnasium.Env) -> float:
    """Simulated seconds per env frame: the environment's `dt`, else its frame rate, else 1/30."""
    dt = getattr(env.unwrapped, "dt", None)
    if isinstance(dt, int | float) and dt > 0:
        return float(dt)
    return 1.0 / (env.metadata.get("render_fps") or 30)


def _draw_once(env: gymnasium.Env, render: bool) -> None:
    """Find out now, and not in the middle of a run, whether pictures can be made."""
    try:
        env.reset()
        if render:
            picture_of(env)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise RenderingUnavailable(f"cannot render: {' '.join(str(error).split())}") from error
