"""Pictures as observations: 64 x 64, a few of them stacked so that speeds can be seen."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from envs.goals import GoalSimulation, GoalTask
from envs.rendering import first_camera, free_drawing, picture_of, select_gl_backend

SIZE = 64  # pixels of either side
STACK = 3  # pictures of an observation
NUMBERS = 3 * SIZE * SIZE  # of one picture


class PixelObservation(gymnasium.Wrapper):
    """Observations become the last STACK pictures, oldest first: (STACK * 3 * SIZE * SIZE,) uint8.

    Each picture is channels first, (3, SIZE, SIZE). An episode begins with STACK times the same.
    The goal of a `GoalSimulation` is STACK times its picture.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """Raises RenderingUnavailable if `env` cannot be drawn, ValueError if its goals cannot."""
        super().__init__(env)
        task = self.unwrapped
        if isinstance(task, GoalTask) and not isinstance(task, GoalSimulation):
            raise ValueError(f"{task} cannot show what its goals look like; use env.obs=state")
        self.observation_space = spaces.Box(0, 255, (STACK * NUMBERS,), np.uint8)
        self._seen: deque[np.ndarray] = deque(maxlen=STACK)
        self._drawing: SmallPictures | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        _, info = self.env.reset(seed=seed, options=options)
        if self._drawing is not None and self._drawing.viewer.model.nhfield:
            self._forget_drawing()  # it holds the terrain of the last episode
        if isinstance(self.unwrapped, GoalSimulation):
            info = {**info, "goal": self._goal(self.unwrapped)}
        self._seen.extend([self._picture()] * STACK)
        return np.concatenate(self._seen), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take `action` and look at what it led to."""
        _, reward, terminated, truncated, info = self.env.step(action)
        self._seen.append(self._picture())
        return np.concatenate(self._seen), float(reward), terminated, truncated, info

    def close(self) -> None:
        """Free the drawing context."""
        self._forget_drawing()
        super().close()

    def _goal(self, task: GoalSimulation) -> np.ndarray:
        """The goal as an observation, (STACK * NUMBERS,) uint8."""
        start = task.state
        task.restore(task.goal)
        picture = self._picture()
        task.restore(start)
        return np.tile(picture, STACK)

    def _forget_drawing(self) -> None:
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None

    def _picture(self) -> np.ndarray:
        """The present state, (NUMBERS,) uint8."""
        native: Any = self.unwrapped
        if type(getattr(native, "model", None)).__module__.startswith("mujoco"):
            if self._drawing is None:
                camera = getattr(native, "free_camera", None)
                self._drawing = SmallPictures(native.model, native.data, camera)
            small = self._drawing.draw()
        else:
            large = native.view() if isinstance(native, GoalSimulation) else picture_of(self.env)
            assert large is not None
            small = np.asarray(Image.fromarray(large).resize((SIZE, SIZE), Image.Resampling.BOX))
        return small.transpose(2, 0, 1).reshape(-1)


class SmallPictures:
    """Pictures of a MuJoCo simulation, without what costs most on a CPU: shadows, mirrors and sky.

    On two cores without a GPU a picture of cartpole takes 1 ms, with all of that 40.
    """

    def __init__(self, model: Any, data: Any, free_camera: dict[str, Any] | None = None) -> None:
        """`free_camera` has settings of MuJoCo's free camera, used if the model has no other.

        Raises RenderingUnavailable if nothing can be drawn on this machine."""
        select_gl_backend()
        from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
        from mujoco import mjtRndFlag

        quality = model.vis.quality
        samples, quality.offsamples = quality.offsamples, 0
        try:
            self.viewer: Any = OffScreenViewer(model, data, SIZE, SIZE)
        finally:
            quality.offsamples = samples
        for costly in (
            mjtRndFlag.mjRND_SHADOW,
            mjtRndFlag.mjRND_REFLECTION,
            mjtRndFlag.mjRND_SKYBOX,
        ):
            self.viewer.scn.flags[costly] = 0
        for name, value in (free_camera or {}).items():
            setattr(self.viewer.cam, name, value)
        self._camera = first_camera(model)

    def draw(self) -> np.ndarray:
        """The present state from the first camera, (SIZE, SIZE, 3) uint8."""
        # Gymnasium draws into whichever OpenGL context was made last.
        self.viewer.make_context_current()
        picture: np.ndarray = self.viewer.render("rgb_array", self._camera)
        return picture

    def close(self) -> None:
        """Free the drawing context."""
        viewer = self.viewer
        free_drawing(self)
        viewer.close()
