"""A planar drone with two rotors flies to a target and stays there; the task beside drone.xml.

telic train env=mujoco/examples/drone.xml train.frames=30000
telic control run=runs/examples-drone.xml-grasp-seed1 video=true
"""

import numpy as np

FRAME_SECONDS = 0.04
EPISODE_FRAMES = 200  # 8 seconds
OBSERVATION_NAMES = ("right", "up", "x", "z", "sin tilt", "cos tilt", "vx", "vz", "spin")
ROOM = 1.8  # metres to either side, and upwards


def reset(model, data, rng):
    """Both begin anywhere in the room, the drone nearly level."""
    data.qpos[:] = rng.uniform([-1.2, -0.5, -0.3], [1.2, 0.5, 0.3])
    data.mocap_pos[0] = [rng.uniform(-1.2, 1.2), 0.0, rng.uniform(0.5, 1.5)]


def _to_target(data):
    """Metres to the right and up, (2,)."""
    return (data.mocap_pos[0] - data.body("drone").xpos)[[0, 2]]


def observation(model, data):
    """Way to the target, height, tilt and velocities."""
    x, z, tilt = data.qpos
    return np.concatenate([_to_target(data), [x, z, np.sin(tilt), np.cos(tilt)], data.qvel])


def reward(model, data):
    """1 at the target and level, near 0 far from it."""
    distance = np.linalg.norm(_to_target(data))
    return float(np.exp(-2.0 * distance**2) * (0.5 + 0.5 * np.cos(data.qpos[2])))


def terminated(model, data):
    """The drone has hit the ground or left the room."""
    x, _, z = data.body("drone").xpos
    return bool(z < 0.1 or z > 2 * ROOM or abs(x) > ROOM)
