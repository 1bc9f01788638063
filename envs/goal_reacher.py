"""The arm of dm_control's reacher, brought to a pose instead of a place."""

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from envs.dmc import dm_suite
from envs.goals import GoalSimulation, unbounded
from envs.rendering import MARKS, MujocoPictures, picture_metadata, select_gl_backend

SHOULDER, WRIST = 0, 1
NEAR = 0.05  # rad, of either joint
MARK = 0.015  # metres, the size of the goal that people are shown


class GoalReacher(MujocoPictures, GoalSimulation):
    """The state is angle and speed of shoulder and wrist, (4,); an action (2,) is torques.

    Poses are drawn as dm_control draws them, at rest: the shoulder turns freely, the wrist up to
    160 degrees to either side. A goal is reached as in stable-worldmodel's reacher: each joint
    within 0.05 rad, at any speed. Ours compares the shoulder on the circle, because whole turns
    are seen neither in a picture nor in an observation.
    """

    obs_names = ("sin(shoulder)", "cos(shoulder)", "wrist", "shoulder speed", "wrist speed")
    dt = 0.02
    action_repeat = 2
    shows_marks = True

    def __init__(self, variant: str, render: bool) -> None:
        if render:
            select_gl_backend()
        self.spec = gymnasium.envs.registration.EnvSpec(id="reacher")
        self.model = _model()
        self.data = mujoco.MjData(self.model)
        self.render_mode = "rgb_array" if render else None
        self.metadata = picture_metadata(self.dt)
        self.observation_space = unbounded(5)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float64)

    @property
    def state(self) -> np.ndarray:
        """Angles and speeds of shoulder and wrist, (4,)."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def restore(self, state: np.ndarray) -> np.ndarray:
        """Set angles and speeds."""
        self.data.qpos[:], self.data.qvel[:] = state[:2], state[2:]
        mujoco.mj_forward(self.model, self.data)
        return self._observation()

    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """Angles and speeds."""
        sine, cosine, wrist, *speeds = obs.astype(np.float64)
        return np.array([np.arctan2(sine, cosine), wrist, *speeds])

    def advance(self, action: np.ndarray) -> np.ndarray:
        """Turn the joints for 0.02 s."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        mujoco.mj_kinematics(self.model, self.data)  # so that a picture shows this very state
        return self._observation()

    def draw_state(self, rng: np.random.Generator) -> np.ndarray:
        """Any pose, at rest."""
        low, high = self.model.jnt_range[WRIST]
        return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(low, high), 0.0, 0.0])

    def draw_pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Any two poses, at rest."""
        while True:
            start, goal = self.draw_state(rng), self.draw_state(rng)
            if not self.reached(start, goal):
                return start, goal

    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether both angles are less than 0.05 rad away, at any speed."""
        gap = state[:2] - goal[:2]
        gap[SHOULDER] = (gap[SHOULDER] + np.pi) % (2 * np.pi) - np.pi
        return bool((np.abs(gap) < NEAR).all())

    def render(self) -> np.ndarray | None:
        """The arm and where its tip shall be, (240, 320, 3) uint8; None if not asked for."""
        self.model.geom("target").pos[:2] = self._tip(self.goal)
        mujoco.mj_kinematics(self.model, self.data)
        return super().render()

    def close(self) -> None:
        """Free the drawing context."""
        self.free_renderer()

    def _tip(self, state: np.ndarray) -> np.ndarray:
        """Where the finger is in `state`, (2,), metres."""
        upper, lower = self.model.body("hand").pos[0], self.model.body("finger").pos[0]
        directions = np.cumsum(state[:2])
        reach = np.array([upper, lower])
        return np.array([reach @ np.cos(directions), reach @ np.sin(directions)])

    def _observation(self) -> np.ndarray:
        shoulder, wrist = self.data.qpos
        seen = (np.sin(shoulder), np.cos(shoulder), wrist, *self.data.qvel)
        return np.array(seen, np.float32)


def _model() -> mujoco.MjModel:
    """The arm, whose target only people are shown, without memory of earlier steps."""
    xml, assets = dm_suite().reacher.get_model_and_assets()
    model = mujoco.MjModel.from_xml_string(xml.decode(), assets)
    model.geom("target").group = MARKS
    model.geom("target").size = MARK
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    return model
