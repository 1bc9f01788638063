"""Push-T: a round agent pushes a block in the shape of a T over a table, seen from above.

Sizes, masses and control are those of the gym-pusht package (Chi et al. 2023, arXiv:2303.04137)
with the relative actions of DINO-WM (Zhou et al. 2024, arXiv:2411.04983). Only the physics engine,
pymunk, is needed.
"""

from collections.abc import Callable

import gymnasium
import numpy as np
import pymunk
from gymnasium import spaces
from PIL import Image, ImageDraw

from envs.goals import GoalSimulation, unbounded
from envs.rendering import picture_metadata

WINDOW = 512.0  # px, the side of the table; y points down
INSIDE = (5.0, 506.0)  # px, where the walls are
WALL = 2.0  # px, half of the thickness that they show
DEEP = 150.0  # px that they go on outside of the window
AGENT = 15.0  # px, radius
UNIT = 30.0  # px, the thickness of the T; its bar is 4 and its stem 3 units long
BAR = ((-2 * UNIT, 0.0), (2 * UNIT, UNIT))  # two corners of either part, in the frame of the block
STEM = ((-UNIT / 2, UNIT), (UNIT / 2, 4 * UNIT))
CENTRE = (0.0, 1.5 * UNIT)  # of gravity, in the frame of the block

STEP = 0.01  # seconds
SUBSTEPS = 10  # per control step
STIFFNESS, DAMPING = 100.0, 20.0  # of the control of the agent, 1/s^2 and 1/s
REACH = 100.0  # px that the target of the agent is moved by action 1
FREE = (INSIDE[0] + WALL + AGENT, INSIDE[1] - WALL - AGENT)  # px, where the agent may be
SPEED = 500.0  # px/s, at which the agent moves in the end under action 1

NEAR = 20.0  # px
TURNED = np.pi / 9  # rad
GOAL_STEPS = 30  # of the script, which lead from a start to its goal
PUSHED = 20.0  # px, or a turn of TURNED, that a goal is away at least

BLOCK_AREA = (100.0, 400.0)  # px, of the positions that are drawn
AGENT_AREA = (50.0, 450.0)

RUN_UP = 130.0  # px from the centre of the block, where a push of the script begins
ASIDE = 60.0  # px to either side of the centre, where it is aimed
CLEAR = 60.0  # px from the block, below which a run-up swerves
PATIENCE = 20  # control steps for the run-up, and for the push
CHANGE_OF_MIND = 0.02  # chance per control step of another plan
NOISE = 0.1  # of its actions


class PushT(GoalSimulation):
    """The state is (10,): agent x, y and velocity, block x, y and angle, and its three velocities.

    An action (2,) in [-1, 1] puts the target of the agent up to 100 px away from it, for 0.1 s, but
    not behind a wall. pymunk remembers contacts from step to step where nobody can read them; the
    simulation is built anew for every control step, so that what follows depends on the state
    alone. Of 40 episodes of 25 control steps of the script, nine in ten stay within 0.2 px of the
    package's, one strays 1.6 px.
    """

    obs_names = (
        *("agent x", "agent y", "block x", "block y", "sin(angle)", "cos(angle)"),
        *("agent x from block", "agent y from block", "agent velocity x", "agent velocity y"),
    )
    goal_dim = 8  # at which speed the agent gets there does not matter
    dt = STEP * SUBSTEPS

    def __init__(self, variant: str, render: bool) -> None:
        self.spec = gymnasium.envs.registration.EnvSpec(id="push-t")
        self.render_mode = "rgb_array" if render else None
        self.metadata = picture_metadata(self.dt)
        self.observation_space = unbounded(len(self.obs_names))
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float64)
        self._state = np.zeros(10)

    @property
    def state(self) -> np.ndarray:
        """Agent position and velocity, block position, angle and velocities, (10,)."""
        return self._state.copy()

    def restore(self, state: np.ndarray) -> np.ndarray:
        """Set all positions and velocities."""
        self._state = state.copy()
        x, y, vx, vy, block_x, block_y, angle = state[:7]
        places = np.array([x, y, block_x, block_y]) / (WINDOW / 2) - 1
        turn = (np.sin(angle), np.cos(angle))
        # Where the two touch is the same wherever the block lies.
        beside = in_block(state, state[:2]) / (WINDOW / 2)
        return np.array([*places, *turn, *beside, vx / SPEED, vy / SPEED], np.float32)

    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """Places in pixels, the block at rest."""
        seen = obs.astype(np.float64)
        x, y, block_x, block_y = (seen[:4] + 1) * (WINDOW / 2)
        angle = np.arctan2(seen[4], seen[5])
        return np.array([x, y, *(SPEED * seen[8:]), block_x, block_y, angle, 0.0, 0.0, 0.0])

    def advance(self, action: np.ndarray) -> np.ndarray:
        """Draw the agent towards its target for 0.1 s."""
        space, agent, block = _simulation(self._state)
        target = np.clip(self._state[:2] + REACH * action, *FREE)
        for _ in range(SUBSTEPS):
            gap = pymunk.Vec2d(*target.tolist()) - agent.position
            agent.velocity += STEP * (STIFFNESS * gap - DAMPING * agent.velocity)
            space.step(STEP)
        moved = [*agent.position, *agent.velocity, *block.position, block.angle]
        return self.restore(np.array([*moved, *block.velocity, block.angular_velocity]))

    def draw_state(self, rng: np.random.Generator) -> np.ndarray:
        """At rest anywhere, the block within the walls and the agent beside it."""
        while True:
            agent, block = rng.uniform(*AGENT_AREA, 2), rng.uniform(*BLOCK_AREA, 2)
            state = np.array([*agent, 0, 0, *block, rng.uniform(-np.pi, np.pi), 0, 0, 0])
            if gap_to_block(state) > AGENT + WALL and within_walls(state):
                return state

    def draw_pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A start anywhere, and where 3 s of the script lead from it, pushing the block."""
        while True:
            start = self.draw_state(rng)
            self.restore(start)
            act = self.script(rng)
            for _ in range(GOAL_STEPS):
                self.advance(act())
            goal = self.state
            moved, turned = apart(start, goal)
            if (moved > PUSHED or turned > TURNED) and within_walls(goal):
                return start, goal

    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether agent and block, four numbers, are less than 20 px away, the angle less than 20°.

        The rule of DINO-WM; velocities do not matter.
        """
        gap = np.linalg.norm((state - goal)[[0, 1, 4, 5]])
        return bool(gap < NEAR and apart(state, goal)[1] < TURNED)

    def script(self, rng: np.random.Generator) -> Callable[[], np.ndarray]:
        """Push the block in about straight lines towards one random place after another."""
        plan = _Push(self._state, rng)

        def act() -> np.ndarray:
            nonlocal plan
            if plan.over or rng.random() < CHANGE_OF_MIND:
                plan = _Push(self._state, rng)
            return plan.act(self._state, rng)

        return act

    def view(self) -> np.ndarray:
        """What the agent sees, (256, 256, 3) uint8: the block and itself, and no goal."""
        return self._draw([])

    def render(self) -> np.ndarray | None:
        """The table and where block and agent shall be, (256, 256, 3) uint8."""
        return None if self.render_mode is None else self._draw([self.goal])

    def _draw(self, marks: list[np.ndarray]) -> np.ndarray:
        picture = Image.new("RGB", (int(WINDOW), int(WINDOW)), "white")
        pen = ImageDraw.Draw(picture)
        low, high = INSIDE
        pen.rectangle((low, low, high, high), outline="lightgray", width=round(2 * WALL))
        for state, block, agent in [
            *((mark, "palegreen", "palegreen") for mark in marks),
            (self._state, "lightslategray", "royalblue"),
        ]:
            for corners in block_corners(state):
                pen.polygon([tuple(corner) for corner in corners.tolist()], fill=block)
            x, y = state[:2].tolist()
            pen.ellipse((x - AGENT, y - AGENT, x + AGENT, y + AGENT), fill=agent)
        return np.asarray(picture.reduce(2))


class _Push:
    """One plan of the script: go to one side of the block, then through it to another place."""

    def __init__(self, state: np.ndarray, rng: np.random.Generator) -> None:
        centre = in_window(state, np.array(CENTRE))
        way = rng.uniform(*BLOCK_AREA, 2) - centre  # that the block shall go
        along = way / np.linalg.norm(way)
        aside = rng.uniform(-ASIDE, ASIDE) * np.array([-along[1], along[0]])
        self._behind = np.clip(centre + aside - RUN_UP * along, *FREE)
        self._through = np.clip(centre + aside + way, *FREE)
        self._speed = rng.uniform(0.3, 1.0)
        self._pushing = False
        self._left = PATIENCE
        self.over = False

    def act(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action (2,) in `state`."""
        agent = state[:2]
        if not self._pushing and np.linalg.norm(self._behind - agent) < AGENT:
            self._pushing, self._left = True, PATIENCE
        gap = (self._through if self._pushing else self._behind) - agent
        distance = float(np.linalg.norm(gap))
        pull = gap / max(REACH, distance)
        if not self._pushing:  # keep clear of the block on the way round it
            away = agent - in_window(state, np.array(CENTRE))
            close = max(0.0, 1 - gap_to_block(state) / CLEAR)
            pull += 1.5 * close * away / np.linalg.norm(away)
        self._left -= 1
        stuck = self._pushing and not within_walls(state)
        self.over = self._left == 0 or stuck or (self._pushing and distance < AGENT)
        action = np.clip(self._speed * pull + rng.normal(0, NOISE, 2), -1, 1)
        return action.astype(np.float32)


def _simulation(state: np.ndarray) -> tuple[pymunk.Space, pymunk.Body, pymunk.Body]:
    """Table, agent and block in `state` (10,)."""
    x, y, vx, vy, block_x, block_y, angle, *block_velocity, spin = state.tolist()
    space = pymunk.Space()
    space.damping = 0.0  # what nobody pushes stands still at once
    # As deep as the block is long: the agent, which nothing stops, presses it through thin ones.
    low, high = INSIDE[0] + WALL - DEEP, INSIDE[1] - WALL + DEEP
    corners = ((low, low), (high, low), (high, high), (low, high))
    for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
        space.add(pymunk.Segment(space.static_body, one, other, DEEP))
    agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    agent.position, agent.velocity = (x, y), (vx, vy)
    space.add(agent, pymunk.Circle(agent, AGENT))
    # The package gives the stem the inertia of the bar.
    block = pymunk.Body(1.0, 2 * pymunk.moment_for_poly(1.0, rectangle(*BAR).tolist()))
    block.center_of_gravity = CENTRE
    block.angle = angle  # before the position, because it turns the block around its centre
    block.position, block.velocity, block.angular_velocity = (
        (block_x, block_y),
        block_velocity,
        spin,
    )
    space.add(block, *(pymunk.Poly(block, rectangle(*part).tolist()) for part in (BAR, STEM)))
    return space, agent, block


def rectangle(low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """The corners between two opposite ones, in order, (4, 2)."""
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def in_window(state: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where points (..., 2) in the frame of the block are on the table, (..., 2)."""
    sine, cosine = np.sin(state[6]), np.cos(state[6])
    return state[4:6] + points @ np.array([[cosine, sine], [-sine, cosine]])


def in_block(state: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Where a point (2,) of the table is in the frame of the block, (2,)."""
    sine, cosine = np.sin(state[6]), np.cos(state[6])
    seen: np.ndarray = np.array([[cosine, sine], [-sine, cosine]]) @ (point - state[4:6])
    return seen


def block_corners(state: np.ndarray) -> np.ndarray:
    """The corners of both parts of the block on the table, (2, 4, 2)."""
    return in_window(state, np.stack([rectangle(*BAR), rectangle(*STEM)]))


def within_walls(state: np.ndarray) -> bool:
    """Whether the block touches no wall."""
    corners, (low, high) = block_corners(state), INSIDE
    return bool((corners > low + WALL).all() and (corners < high - WALL).all())


def gap_to_block(state: np.ndarray) -> float:
    """How far the centre of the agent is from the block, px."""
    agent = in_block(state, state[:2])
    outside = [
        np.maximum(np.array(low) - agent, agent - np.array(high)) for low, high in (BAR, STEM)
    ]
    return min(float(np.linalg.norm(np.maximum(gap, 0.0))) for gap in outside)


def apart(state: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How far the block is from where it is in `other`: px, and rad in [0, pi]."""
    turned = (state[6] - other[6] + np.pi) % (2 * np.pi) - np.pi
    return float(np.linalg.norm(state[4:6] - other[4:6])), float(abs(turned))
