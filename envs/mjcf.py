"""Any MuJoCo model as an environment: `mujoco/PATH.xml`, with a Python file that says what to do.

The task file lies beside the model and has its name (`arm.xml`, `arm.py`), or `env.task` names
another. It is plain Python with these functions, of which only `reward` is required:

    reward(model, data) -> float            of the state that the last env frame led to; the action
                                            is in `data.ctrl`
    observation(model, data) -> array       default: qpos and qvel
    reset(model, data, rng)                 changes the reset state, which is the first keyframe
                                            or qpos0; `rng` is a numpy Generator
    terminated(model, data) -> bool         whether the task itself has ended

and these constants: FRAME_SECONDS of simulated time per env frame (default: one step of the
model), EPISODE_FRAMES (default: 1000) and OBSERVATION_NAMES, a label for each number of the
observation.
"""

import hashlib
import importlib.util
import math
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.wrappers import TimeLimit

from envs.config import EnvConfig
from envs.registry import Suite
from envs.rendering import MujocoPictures, picture_metadata, select_gl_backend
from envs.spaces import number_labels

EPISODE_FRAMES = 1000  # where the task file says nothing
DIVERGED = [  # warnings after which MuJoCo has reset the state
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
]


class MujocoFileEnv(MujocoPictures, gymnasium.Env[np.ndarray, np.ndarray]):
    """A MuJoCo model with the rewards and observations of a task file.

    Diverged physics truncates, with the last sound observation, reward 0 and the reason in
    `info["physics_error"]`.
    """

    def __init__(self, path: Path, task: ModuleType, render: bool) -> None:
        """Raises ValueError, in one line, for a model or a task that cannot be used."""
        self.model = _model(path)
        self.data = mujoco.MjData(self.model)
        self.task = task
        self.spec = gymnasium.envs.registration.EnvSpec(id=_id(path))
        step = self.model.opt.timestep
        wanted = _constant(task, "FRAME_SECONDS", step)
        self._steps = max(1, round(wanted / step))
        if not math.isclose(self._steps * step, wanted, rel_tol=1e-6):
            raise ValueError(
                f"{task.__file__}: FRAME_SECONDS = {wanted:g} is no multiple of the "
                f"timestep of {path}, {step:g} s"
            )
        self.dt = self._steps * step
        self.metadata = picture_metadata(self.dt)
        self.render_mode = "rgb_array" if render else None
        self.action_space = _actuators(path, self.model)
        self._obs = np.zeros(0, np.float32)
        self.reset(seed=0)  # runs the task's functions once, so that mistakes show now
        self._reward()
        self._terminated()
        self.np_random, _ = np_random()  # the seed was for that one episode
        self.observation_space = spaces.Box(-np.inf, np.inf, self._obs.shape, np.float32)
        self.obs_names = self._labels()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode at the first keyframe, or at qpos0, as the task changes it."""
        super().reset(seed=seed)
        if self.model.nkey:
            mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        else:
            mujoco.mj_resetData(self.model, self.data)
        if hasattr(self.task, "reset"):
            self._call("reset", self.np_random)
        mujoco.mj_forward(self.model, self.data)
        self._obs = self._observation()
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run one env frame with controls within the actuators' ranges."""
        self.data.ctrl[:] = action
        self._advance()
        if self.data.warning.number[DIVERGED].any():
            reason = "the simulation became unstable"
            return self._obs.copy(), 0.0, False, True, {"physics_error": reason}
        self._obs = self._observation()
        return self._obs.copy(), self._reward(), self._terminated(), False, {}

    def close(self) -> None:
        """Free the drawing context."""
        self.free_renderer()

    def _advance(self) -> None:
        """One env frame, after which positions of bodies and sensors belong to the new qpos."""
        rest = self._steps
        if self.model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4:
            mujoco.mj_step2(self.model, self.data)  # the first half of the step is done already
            rest -= 1
        if rest:
            mujoco.mj_step(self.model, self.data, nstep=rest)
        mujoco.mj_step1(self.model, self.data)

    def _labels(self) -> tuple[str, ...]:
        count = len(self._obs)
        if not hasattr(self.task, "observation"):
            positions = number_labels("qpos", (self.model.nq,))
            return (*positions, *number_labels("qvel", (self.model.nv,)))
        labels = getattr(self.task, "OBSERVATION_NAMES", number_labels("observation", (count,)))
        if len(labels) != count:
            raise ValueError(
                f"{self.task.__file__}: there are {len(labels)} OBSERVATION_NAMES for the "
                f"{count} numbers that observation gives"
            )
        return tuple(map(str, labels))

    def _observation(self) -> np.ndarray:
        if hasattr(self.task, "observation"):
            found = self._call("observation")
        else:
            found = np.concatenate([self.data.qpos, self.data.qvel])
        obs = self._numbers("observation", found)
        if obs.ndim != 1 or not obs.size or (self._obs.size and obs.shape != self._obs.shape):
            expected = f"({self._obs.size},)" if self._obs.size else "(O,)"
            raise self._wrong("observation", f"gave shape {obs.shape} instead of {expected}")
        return obs

    def _reward(self) -> float:
        reward = self._numbers("reward", self._call("reward"))
        if reward.ndim:
            raise self._wrong("reward", f"gave shape {reward.shape} instead of one number")
        return float(reward)

    def _terminated(self) -> bool:
        return bool(self._call("terminated")) if hasattr(self.task, "terminated") else False

    def _numbers(self, function: str, found: Any) -> np.ndarray:
        """What a function of the task gave, as finite float32."""
        try:
            numbers = np.array(found, np.float32)
        except (TypeError, ValueError):
            raise self._wrong(function, f"gave {found!r} instead of numbers") from None
        if not np.isfinite(numbers).all():
            raise self._wrong(function, f"gave {numbers}, which is not finite")
        return numbers

    def _call(self, function: str, *more: Any) -> Any:
        try:
            return getattr(self.task, function)(self.model, self.data, *more)
        except Exception as error:
            raise self._wrong(function, f"failed: {_where(error, self.task)}") from error

    def _wrong(self, function: str, what: str) -> ValueError:
        return ValueError(f"{self.task.__file__}: {function} {what}")


def _id(path: Path) -> str:
    """A name that Gymnasium takes, of this file alone."""
    digest = hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_.:-]', '_', path.stem)}-{digest}"


def _where(error: Exception, task: ModuleType) -> str:
    """The error in one line, with the last line of the task file that led to it."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == task.__file__
    ]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _model(path: Path) -> mujoco.MjModel:
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise ValueError(f"{path} is no MuJoCo model: {' '.join(str(error).split())}") from None


def _actuators(path: Path, model: mujoco.MjModel) -> spaces.Box:
    """The native action space. Raises ValueError for actuators without a range."""
    if not model.nu:
        raise ValueError(f"{path} has no actuators, so nothing can be controlled")
    for i in range(model.nu):
        if not model.actuator_ctrllimited[i]:
            name = model.actuator(i).name or str(i)
            raise ValueError(f'{path}: actuator {name} has no ctrlrange; write ctrlrange="-1 1"')
    low, high = model.actuator_ctrlrange.T
    return spaces.Box(low, high, dtype=np.float64)


def _task(path: Path) -> ModuleType:
    """The task file as a module of its own. Raises ValueError where it cannot be one."""
    spec = importlib.util.spec_from_file_location(f"telic_task_{_id(path)}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(spec.name, None)
        raise ValueError(f"{path} cannot be loaded: {_where(error, module)}") from error
    if not callable(getattr(module, "reward", None)):
        raise ValueError(f"{path} must define reward(model, data)")
    return module


def _constant(task: ModuleType, name: str, default: float, whole: bool = False) -> float:
    """A constant of the task file. Raises ValueError unless it is a (whole) number above 0."""
    value = getattr(task, name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf or (whole and number % 1):
        kind = "whole number" if whole else "number"
        raise ValueError(f"{task.__file__}: {name} = {value!r} is no {kind} above 0")
    return number


def load(task: str, config: EnvConfig, render: bool) -> gymnasium.Env:
    """Make the model in the file `task`, truncated after `config.episode_frames` or the task's own.

    Raises ValueError for files that cannot be used, RenderingUnavailable if `render` cannot be had.
    """
    path = Path(task)
    if not path.is_file():
        raise ValueError(f"mujoco/{task}: there is no file {path} in {Path.cwd()}")
    file = Path(config.task) if config.task else path.with_suffix(".py")
    if not file.is_file():
        raise ValueError(f"mujoco/{task}: there is no {file}; name the task file with env.task=")
    if render:
        select_gl_backend()
    module = _task(file)
    own = config.episode_frames or _constant(module, "EPISODE_FRAMES", EPISODE_FRAMES, whole=True)
    return TimeLimit(MujocoFileEnv(path, module, render), int(own))


SUITE = Suite(load=load, others="PATH.xml (with PATH.py beside it, or env.task=FILE.py)")
