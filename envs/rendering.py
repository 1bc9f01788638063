"""Headless rendering: which OpenGL backend MuJoCo gets, or one clear line that there is none."""

import functools
import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np

INSTALL_HINT = "install libegl1 or libosmesa6 (apt-get install libegl1 libgl1-mesa-dri)"

# A broken driver can kill the process that tries it, so it is tried in one that may die.
PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 150)
"""


MARKS = 4  # the group of geoms and sites that people are shown and agents are not


class RenderingUnavailable(RuntimeError):
    """No picture can be made on this machine; the message is one line and says what to install."""


@functools.cache
def gl_backend_works(backend: str) -> bool:
    """Say whether MuJoCo can draw with this MUJOCO_GL setting; costs about a second, once."""
    command = [sys.executable, "-c", PROBE]
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        probe = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def select_gl_backend() -> str:
    """Set MUJOCO_GL to EGL, else OSMesa, whichever draws here, and return it.

    A setting that the user made is kept. Raises RenderingUnavailable if nothing works.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        if not gl_backend_works(chosen):
            raise RenderingUnavailable(
                f"cannot render: MUJOCO_GL={chosen} does not work here; unset it or {INSTALL_HINT}"
            )
        return chosen
    for backend in ("egl", "osmesa"):
        if gl_backend_works(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderingUnavailable(f"cannot render: neither EGL nor OSMesa works; {INSTALL_HINT}")


def frame_rate(period: float) -> int:
    """Pictures per second of a video with one every `period` seconds; 1 at least."""
    return max(1, round(1 / period))


def picture_metadata(dt: float) -> dict[str, Any]:
    """Gymnasium's `metadata` of an environment that draws, `dt` seconds per env frame."""
    return {"render_modes": ["rgb_array"], "render_fps": frame_rate(dt)}


def picture_of(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """What `env.render()` draws, (H, W, 3) uint8; RenderingUnavailable where it draws no such."""
    try:
        picture = env.render()
    except NotImplementedError:  # of a class without pictures
        picture = None
    if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.dtype == np.uint8):
        raise RenderingUnavailable(f"cannot render: {env} gave no (H, W, 3) uint8 picture")
    return picture


class MujocoPictures:
    """`render` and the freeing of what it needs, for environments that hold a MuJoCo simulation."""

    render_mode: str | None
    mujoco_renderer: Any = None  # the name that Gymnasium's environments give it
    free_camera: dict[str, Any] | None = None  # settings of MuJoCo's, where a model has no other
    shows_marks = False

    def render(self) -> np.ndarray | None:
        """Return a picture from the first camera, (240, 320, 3) uint8; None if not asked for."""
        if self.render_mode is None:
            return None
        if self.mujoco_renderer is None:
            # Not dm_control's, nor MuJoCo's own: their backend is fixed when they are imported.
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            model, data = self.model, self.data  # type: ignore[attr-defined]
            camera = first_camera(model)
            self.mujoco_renderer = MujocoRenderer(
                model, data, self.free_camera, width=320, height=240, camera_id=camera
            )
            if self.shows_marks:
                self.mujoco_renderer.render("rgb_array")  # which makes the viewer
                seen = self.mujoco_renderer.viewer.vopt
                seen.geomgroup[MARKS] = seen.sitegroup[MARKS] = 1
        picture: np.ndarray = self.mujoco_renderer.render("rgb_array")
        return picture

    def free_renderer(self) -> None:
        """Free the drawing context; the next picture makes another."""
        if self.mujoco_renderer is not None:
            free_drawing(self.mujoco_renderer)
            self.mujoco_renderer.close()
            self.mujoco_renderer = None


def first_camera(model: Any) -> int:
    """The first camera of a MuJoCo model, or the free one (-1) if it has none."""
    return 0 if model.ncam else -1


def mujoco_renderer_of(env: gymnasium.Env[Any, Any]) -> Any:
    """What draws a Gymnasium environment, or one inside it, as mazes hold their robot, or None."""
    native = env.unwrapped
    found = (getattr(one, "mujoco_renderer", None) for one in (native, *vars(native).values()))
    return next((renderer for renderer in found if renderer is not None), None)


def free_drawing(renderer: Any) -> None:
    """Free what a Gymnasium `MujocoRenderer` put on the device, before it is closed or dropped.

    Left to the garbage collector, it would be freed in whichever OpenGL context is then in use,
    and blank the pictures of another environment.
    """
    if renderer is not None and renderer.viewer is not None:
        renderer.viewer.make_context_current()
        renderer.viewer.con.free()
        renderer.viewer = None
