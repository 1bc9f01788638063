"""Two rooms and a door: a dot, moved by what it is told, which walls stop.

Sizes are those of PLDM (Sobal et al. 2025, arXiv:2502.14819), the rule of success that of DINO-WM
(Zhou et al. 2024, arXiv:2411.04983), which has the same rooms. Nothing but NumPy is needed.
"""

import math
from collections.abc import Callable

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.goals import GoalSimulation, unbounded
from envs.rendering import picture_metadata

WORLD = 65.0  # px, the side; y points down
LOW, HIGH = 5.0, 60.0  # px, what the border leaves
MIDDLE, HALF_WALL = 32.0, 1.5  # px, of the wall between the rooms
DOOR, HALF_DOOR = 10.0, 4.0  # px, height of the middle of the door
STRIDE = 2.45  # px, the longest step
NEAR = 4.5  # px

LEFT, RIGHT = MIDDLE - HALF_WALL, MIDDLE + HALF_WALL
WALLS = tuple(  # upper left and lower right corner of each
    (np.array(low), np.array(high))
    for low, high in (
        ((LEFT, 0.0), (RIGHT, DOOR - HALF_DOOR)),
        ((LEFT, DOOR + HALF_DOOR), (RIGHT, WORLD)),
        ((0.0, 0.0), (LOW, WORLD)),
        ((HIGH, 0.0), (WORLD, WORLD)),
        ((0.0, 0.0), (WORLD, LOW)),
        ((0.0, HIGH), (WORLD, WORLD)),
    )
)
ROUNDING = 1e-9

SIDE = 256  # pixels of a picture
GRID = (np.arange(SIDE) + 0.5) * WORLD / SIDE  # px of the world
DOT = 2.0  # px of the world, the radius that is drawn
BACKGROUND, STONE = (245, 245, 245), (90, 90, 90)
BLUE, GREEN = (40, 90, 200), (150, 215, 150)

MOUTH = 2.0  # px before and behind the wall, where the way through the door begins and ends
ARRIVED = 2.0  # px, where the script chooses another place
AROUND, STRAIGHT_ON = 100, 20  # control steps after which it does so, too
NOISE = 0.4  # of its actions


class TwoRooms(GoalSimulation):
    """The state is the position (2,), px; an action (2,) is how far to go, px, at most 2.45.

    A step ends where it meets a wall. Starts and goals are in different rooms. They count as the
    same within 4.5 px; PLDM asks for 1.4 px.
    """

    obs_names = ("x", "y")
    dt = 0.1

    def __init__(self, variant: str, render: bool) -> None:
        self.spec = gymnasium.envs.registration.EnvSpec(id="two-rooms")
        self.render_mode = "rgb_array" if render else None
        self.metadata = picture_metadata(self.dt)
        self.observation_space = unbounded(2)
        self.action_space = spaces.Box(-STRIDE, STRIDE, (2,), np.float64)
        self._place = np.full(2, DOOR)

    @property
    def state(self) -> np.ndarray:
        """The position, (2,)."""
        return self._place.copy()

    def restore(self, state: np.ndarray) -> np.ndarray:
        """Put the dot somewhere; the observation is its position in [-1, 1]."""
        self._place = state.copy()
        return (self._place / (WORLD / 2) - 1).astype(np.float32)

    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """The position in pixels."""
        return (obs.astype(np.float64) + 1) * (WORLD / 2)

    def advance(self, action: np.ndarray) -> np.ndarray:
        """Go as far as the action says, and no further than to the nearest wall."""
        length = float(np.linalg.norm(action))
        return self.restore(walk(self._place, action * min(1.0, STRIDE / max(length, 1e-12))))

    def draw_state(self, rng: np.random.Generator) -> np.ndarray:
        """Anywhere in either room."""
        return self._in_room(int(rng.integers(2)), rng)

    def draw_pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Anywhere in one room, and in the other."""
        while True:
            room = int(rng.integers(2))
            start, goal = self._in_room(room, rng), self._in_room(1 - room, rng)
            if not self.reached(start, goal):
                return start, goal

    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the positions are less than 4.5 px apart."""
        return bool(np.linalg.norm(state - goal) < NEAR)

    def script(self, rng: np.random.Generator) -> Callable[[], np.ndarray]:
        """Wander from one random place to another.

        Half of the ways lead through the door where that is between, and half straight on, which
        may be against the wall: a model that has never seen that lets plans through.
        """
        goal, around, left = self._place, True, 0

        def act() -> np.ndarray:
            nonlocal goal, around, left
            if left == 0 or np.linalg.norm(goal - self._place) < ARRIVED:
                goal, around = self.draw_state(rng), bool(rng.integers(2))
                left = AROUND if around else STRAIGHT_ON
            left -= 1
            gap = (next_corner(self._place, goal) if around else goal) - self._place
            pull = gap / max(STRIDE, float(np.linalg.norm(gap)))
            return np.clip(pull + rng.normal(0, NOISE, 2), -1, 1).astype(np.float32)

        return act

    def outline(self) -> list[tuple[float, float, float]]:
        """The wall between the rooms as squares for a picture: upper left corner and width, px."""
        width = RIGHT - LEFT
        parts = (np.arange(low[1], high[1], width).tolist() for low, high in WALLS[:2])
        return [(LEFT, y, width) for part in parts for y in part]

    def view(self) -> np.ndarray:
        """What the agent sees, (256, 256, 3) uint8: rooms and dot, and no goal."""
        return picture([(self._place, BLUE)])

    def render(self) -> np.ndarray | None:
        """The rooms, the dot and where it shall be, (256, 256, 3) uint8."""
        if self.render_mode is None:
            return None
        return picture([(self.goal, GREEN), (self._place, BLUE)])

    def _in_room(self, room: int, rng: np.random.Generator) -> np.ndarray:
        low, high = ((LOW, LEFT), (RIGHT, HIGH))[room]
        return np.array([rng.uniform(low, high), rng.uniform(LOW, HIGH)])


def walk(place: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Where a straight way (2,) from `place` (2,) ends: at its end, or where it meets a wall.

    The number that met it is put exactly on the surface, so that rounding lets nothing through.
    """
    part, axis, surface = 1.0, 0, float(place[0] + way[0])
    for low, high in WALLS:
        entered, across = entry(low, high, place, way)
        if entered < part:
            part, axis, surface = entered, across, float((low if way[across] > 0 else high)[across])
    end = place + part * way
    end[axis] = surface
    return end


def entry(
    low: np.ndarray, high: np.ndarray, place: np.ndarray, way: np.ndarray
) -> tuple[float, int]:
    """What part of a way is gone where it enters a rectangle, and across which axis.

    Infinity if it does not, and if it begins inside, be it by a rounding error.
    """
    enter, leave, axis = -math.inf, math.inf, 0
    for i in range(2):
        if way[i] == 0:
            if not low[i] < place[i] < high[i]:
                return math.inf, 0
            continue
        one, other = sorted(((low[i] - place[i]) / way[i], (high[i] - place[i]) / way[i]))
        if one > enter:
            enter, axis = one, i
        leave = min(leave, other)
    if enter < -ROUNDING or leave < ROUNDING or enter >= leave:
        return math.inf, 0
    return max(float(enter), 0.0), axis


def next_corner(place: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Where to go straight, (2,), to get from one place to another around the wall."""
    mouths = [np.array([x, DOOR]) for x in (LEFT - MOUTH, RIGHT + MOUTH)]
    here, there = int(place[0] > MIDDLE), int(goal[0] > MIDDLE)
    in_door = abs(place[0] - MIDDLE) < HALF_WALL + MOUTH / 2
    if in_door and abs(place[1] - DOOR) < HALF_DOOR:
        return mouths[there]
    if here == there:
        return goal
    arrived = np.linalg.norm(place - mouths[here]) < MOUTH
    return mouths[there if arrived else here]


def picture(dots: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """The rooms and dots in them, later ones above, with smooth edges: (SIDE, SIDE, 3) uint8."""
    image = ROOMS.copy()
    for place, colour in dots:
        near = np.abs(GRID - place[:, None]) < DOT + 1  # (2, SIDE)
        part = np.ix_(near[1], near[0])
        distance = np.hypot(GRID[near[0]] - place[0], GRID[near[1], None] - place[1])
        image[part] = blend(image[part], colour, DOT - distance)
    return image


def blend(image: np.ndarray, colour: tuple[int, int, int], depth: np.ndarray) -> np.ndarray:
    """Paint what lies inside of a shape: image (H, W, 3) uint8, depth below its edge (H, W), px."""
    cover = np.clip(depth * SIDE / WORLD + 0.5, 0, 1)[..., None]
    painted: np.ndarray = (image + cover * (np.array(colour) - image)).round().astype(np.uint8)
    return painted


def _empty_rooms() -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)
    for low, high in WALLS:
        x, y = (np.minimum(GRID - a, b - GRID) for a, b in zip(low, high, strict=True))
        image = blend(image, STONE, np.minimum(x[None, :], y[:, None]))
    return image


ROOMS = _empty_rooms()
