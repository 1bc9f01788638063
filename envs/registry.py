"""The environment suites, by the prefix of their names, and the list of all names.

A third-party package adds a suite with an entry point in the group `telic.envs`: its name is the
prefix, its value a `Suite`, or just a loader `(task, config, render) -> gymnasium.Env`. Nothing is
imported before a name with that prefix is made or listed.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import gymnasium

from envs.config import EnvConfig

GROUP = "telic.envs"
BUILT_IN = (
    EntryPoint("dmc", "envs.dmc:SUITE", GROUP),
    EntryPoint("gym", "envs.gym:SUITE", GROUP),
    EntryPoint("mujoco", "envs.mjcf:SUITE", GROUP),
    EntryPoint("goal", "envs.goals:SUITE", GROUP),
)
Loader = Callable[[str, EnvConfig, bool], gymnasium.Env]


@dataclass(frozen=True)
class Suite:
    """How the environments of one prefix are made and listed.

    `load(task, config, render)` returns the environment with its native spaces, stepped in env
    frames and truncated after `config.episode_frames` of them (None: its own limit).
    """

    load: Loader
    tasks: Callable[[], list[str]] = list  # names without the prefix; may load the simulator
    canonical: Callable[[str], str] = str  # spells short task names out
    action_repeat: int = 1  # usual env frames per control step
    others: str = ""  # what stands for tasks that no list holds, such as FILE.xml


def suite_points() -> dict[str, EntryPoint]:
    """Return the suites that are installed, by prefix, without importing any.

    Raises ValueError if two packages claim one prefix.
    """
    points: dict[str, EntryPoint] = {}
    for point in (*BUILT_IN, *entry_points(group=GROUP)):
        if point.name in points:
            claims = f"{points[point.name].value} and {point.value}"
            raise ValueError(f"environment suite {point.name!r} is claimed twice: {claims}")
        points[point.name] = point
    return points


def load_suite(point: EntryPoint) -> Suite:
    """Import the suite behind an entry point; a bare loader becomes a suite without a list.

    Raises ValueError if a package that it imports is not installed.
    """
    try:
        found = point.load()
    except ModuleNotFoundError as error:
        need = f"the Python package {error.name!r}, which is not installed"
        raise ValueError(f"environment suite {point.name!r} needs {need}") from error
    return found if isinstance(found, Suite) else Suite(load=found)


def find_suite(name: str) -> tuple[Suite, str]:
    """Split a full name into its suite and the task in it; ValueError if there is no such suite."""
    prefix, _, task = name.partition("/")
    point = suite_points().get(prefix)
    if point is None or not task:
        raise unknown_environment(name)
    return load_suite(point), task


def env_names() -> list[str]:
    """Return every environment name that is cheap to know of, sorted within its suite.

    Loads dm_control for its list; Gymnasium's is read from its registry and nothing is made.
    """
    return [
        f"{prefix}/{task}"
        for prefix, point in suite_points().items()
        for task in sorted(load_suite(point).tasks())
    ]


def open_names() -> list[str]:
    """Return what stands for the names that `env_names` cannot hold, by suite."""
    suites = {prefix: load_suite(point) for prefix, point in suite_points().items()}
    return [f"{prefix}/{suite.others}" for prefix, suite in suites.items() if suite.others]


@contextmanager
def closed_on_error(env: gymnasium.Env) -> Iterator[None]:
    """Close `env` if what is done with it raises: nobody else holds it yet."""
    try:
        yield
    except BaseException:
        env.close()
        raise


def unknown_environment(name: str) -> ValueError:
    """Return the error for a name that nothing answers to, with the nearest one that exists."""
    choices = {choice.lower(): choice for choice in env_names()}
    wanted = name.lower()
    # A bare task name ("Pendulum-v1") is the commonest slip; similarity alone misses short ones.
    prefixed = [choice for choice in choices if choice.partition("/")[2] == wanted]
    nearest = prefixed or difflib.get_close_matches(wanted, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {choices[nearest[0]]!r}?" if nearest else ""
    return ValueError(f"environment {name!r} is unknown{hint} (telic list envs shows all)")
