"""What a person chooses about an environment, and what the agent needs to know of it."""

from dataclasses import dataclass

OBSERVATIONS = ("state", "pixels")


@dataclass(frozen=True)
class EnvConfig:
    """Which environment to make, and how it is stepped.

    Raises ValueError, in one line, for an empty name or a count below one.
    """

    name: str = "dmc/cartpole-swingup"  # dmc/<domain>-<task>, gym/<id>, mujoco/<file>, goal/<task>
    action_repeat: int | None = None  # env frames per action; null: usual for the suite
    action_block: int = 1  # actions that are chosen together, for one control step
    episode_frames: int | None = None  # time limit in env frames; null: the environment's own
    obs: str = "state"  # state: the environment's own numbers; pixels: three pictures, 64 x 64
    task: str | None = None  # of mujoco/<file>: Python file with the reward; null: beside the model

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("env.name must not be empty; telic list envs shows the choices")
        if self.obs not in OBSERVATIONS:
            choices = " or ".join(OBSERVATIONS)
            raise ValueError(f"env.obs must be {choices}, got {self.obs!r}")
        if self.action_block < 1:
            raise ValueError(f"env.action_block must be at least 1, got {self.action_block}")
        for key in ("action_repeat", "episode_frames"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"env.{key} must be at least 1 or null, got {value}")


@dataclass(frozen=True)
class EnvSpec:
    """Sizes, timing and labels of an environment; plain values, so that JSON can carry it."""

    name: str  # the full name, short names spelled out
    obs_dim: int  # O, with pictures all of their numbers
    action_dim: int  # A, of the whole block; with discrete actions the sum of `choices`
    action_repeat: int  # env frames per action
    control_period: float  # seconds of simulated time between two control steps
    episode_steps: int | None  # time limit in control steps; None: there is none
    # Native bounds of continuous actions, (A,); the agent always sees [-1, 1].
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    obs_names: tuple[str, ...] | None = None  # (O,) labels such as "velocity[1]"
    choices: tuple[int, ...] = ()  # in each group of discrete actions; empty if continuous
    pictures: int = 0  # stacked in an observation of pixels; 0: it is a vector
    goal_dim: int = 0  # first numbers of an observation, all that matters in a goal; 0: all do
    action_block: int = 1  # actions per control step

    @property
    def frames(self) -> int:
        """Env frames per control step."""
        return self.action_repeat * self.action_block

    @property
    def newest_dim(self) -> int:
        """How many numbers of an observation are new: the last ones, its newest picture; or all."""
        return self.obs_dim // max(1, self.pictures)

    @property
    def observations(self) -> str:
        """The observation in words, such as "5 observation numbers"."""
        if self.pictures:
            return f"{self.pictures} pictures of 64 x 64"
        return f"{self.obs_dim} observation numbers"

    @property
    def actions(self) -> str:
        """The action space in words, such as "6 actions" or "discrete actions (3 x 2 choices)"."""
        if self.choices:
            return f"discrete actions ({' x '.join(map(str, self.choices))} choices)"
        return f"{self.action_dim} action" + "s" * (self.action_dim != 1)
