"""PointMaze: a ball, pushed by a force, in the mazes of gymnasium-robotics."""

from collections import deque
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs.goals import GoalSimulation, unbounded
from envs.gym import register_robotics
from envs.rendering import MARKS, MujocoPictures, picture_metadata, select_gl_backend

NAMES = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}
REACH = 0.45  # metres, the package's own rule; a cell of the maze is 1 m wide
SCATTER = 0.25  # metres to either side of the middle of a cell
FAR = 0.8  # of the longest way in the maze, which start and goal are apart at least
FRAME = 0.01  # seconds
HEIGHT = 10.0  # metres, of the camera above the floor
BALL = 0.2  # metres, the radius that is drawn; that of the ball is 0.1
BALL_SHARE = 0.03  # of the side of a picture, which that radius is at least
ABOVE_WALLS = 1.0  # metres, where the ball is drawn, so that none hides it
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


class PointMaze(MujocoPictures, GoalSimulation):
    """Observation and state are position and velocity (4,), the action a force (2,).

    Starts and goals are at rest, at opposite ends of the maze.
    """

    obs_names = ("x", "y", "velocity x", "velocity y")
    dt = FRAME
    action_repeat = 5
    shows_marks = True

    def __init__(self, size: str, render: bool) -> None:
        if render:
            select_gl_backend()
        self.spec = gymnasium.envs.registration.EnvSpec(id=f"pointmaze-{size}")
        self.maze_env = _make(f"PointMaze_{NAMES[size]}-v3")
        self._point = self.maze_env.point_env
        self.model, self.data = self._point.model, self._point.data
        self.render_mode = "rgb_array" if render else None
        self.metadata = picture_metadata(FRAME)
        self.observation_space, self.action_space = unbounded(4), self._point.action_space
        self._draw_from_above()
        self.cells = free_cells(self.maze_env.maze.maze_map)
        ways = way_lengths(self.cells)
        self._far = np.argwhere(ways >= FAR * ways.max())

    @property
    def state(self) -> np.ndarray:
        """Position and velocity, (4,)."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def restore(self, state: np.ndarray) -> np.ndarray:
        """Set position and velocity."""
        self._point.set_state(state[:2], state[2:])
        return state.astype(np.float32)

    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """Position and velocity, as they are seen."""
        return obs.astype(np.float64)

    def advance(self, action: np.ndarray) -> np.ndarray:
        """Push the ball for 0.01 s."""
        obs: np.ndarray = self._point.step(action)[0]
        mujoco.mj_kinematics(self.model, self.data)  # so that a picture shows this very state
        return obs.astype(np.float32)

    def draw_state(self, rng: np.random.Generator) -> np.ndarray:
        """At rest in any cell."""
        return self._in_cell(int(rng.integers(len(self.cells))), rng)

    def draw_pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """At rest, with almost the whole maze between them."""
        start, goal = self._far[rng.integers(len(self._far))]
        return self._in_cell(start, rng), self._in_cell(goal, rng)

    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the positions are at most 0.45 m apart, at any velocity."""
        return bool(np.linalg.norm(state[:2] - goal[:2]) <= REACH)

    def outline(self) -> list[tuple[float, float, float]]:
        """The walls, in metres."""
        maze, walls = self.maze_env.maze, []
        for row, line in enumerate(maze.maze_map):
            for column, kind in enumerate(line):
                if kind == 1:
                    x, y = maze.cell_rowcol_to_xy(np.array([row, column]))
                    walls.append((x - 0.5, y - 0.5, 1.0))
        return walls

    def render(self) -> np.ndarray | None:
        """The maze, the ball and where it shall be, (240, 320, 3) uint8; None if not asked for."""
        self.model.site("target").pos[:2] = self.goal[:2]
        mujoco.mj_kinematics(self.model, self.data)
        return super().render()

    def close(self) -> None:
        """Free the drawing context and the simulation."""
        self.free_renderer()
        self.maze_env.close()

    def _draw_from_above(self) -> None:
        """Let every picture show the whole maze, straight from above and without perspective."""
        side = max(np.array(self.maze_env.maze.maze_map).shape)
        self.model.vis.global_.orthographic = 1
        self.model.vis.global_.fovy = side  # of an orthographic camera in metres
        self.free_camera = {
            "azimuth": 90.0,
            "elevation": -90.0,
            "distance": HEIGHT,
            "lookat": np.zeros(3),
        }
        ball = self.model.site("particle_site")
        ball.size, ball.pos[2] = max(BALL, BALL_SHARE * side), ABOVE_WALLS
        self.model.site_sameframe[ball.id] = 0  # it has a position of its own now
        self.model.site("target").group = MARKS

    def _in_cell(self, cell: int, rng: np.random.Generator) -> np.ndarray:
        middle = self.maze_env.maze.cell_rowcol_to_xy(np.array(self.cells[cell]))
        return np.concatenate([middle + rng.uniform(-SCATTER, SCATTER, 2), np.zeros(2)])


def _make(name: str) -> Any:
    register_robotics()
    return gymnasium.make(name, disable_env_checker=True).unwrapped


def free_cells(maze: list[list[Any]]) -> list[tuple[int, int]]:
    """Row and column of every cell of a maze that is no wall."""
    places = ((r, c) for r, line in enumerate(maze) for c in range(len(line)))
    return [(r, c) for r, c in places if maze[r][c] != 1]


def way_lengths(cells: list[tuple[int, int]]) -> np.ndarray:
    """Steps of the shortest way between any two of n cells, (n, n); -1 if there is none."""
    index = {cell: i for i, cell in enumerate(cells)}
    lengths = np.full((len(cells), len(cells)), -1)
    for first in range(len(cells)):
        lengths[first, first] = 0
        waiting = deque([first])
        while waiting:
            here = waiting.popleft()
            row, column = cells[here]
            for down, right in NEIGHBOURS:
                there = index.get((row + down, column + right))
                if there is not None and lengths[first, there] < 0:
                    lengths[first, there] = lengths[first, here] + 1
                    waiting.append(there)
    return lengths
