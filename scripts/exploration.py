"""How a training departs from what its agent would do: random actions, and less or no noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpc import ActionSpace
from scripts.collector import Unfinished
from scripts.settings import TrainConfig
from world_models import Replay

LITTLE = 0.01  # share of the range of rewards up to which one counts as none


class Exploration:
    """Which control steps are random, and how much noise the others get.

    Everything depends on the number of an episode and what has happened in it, not on what came
    before, so that nothing needs to be kept for a resume.
    """

    def __init__(self, config: TrainConfig, replay: Replay, episode_steps: int, seed: int) -> None:
        """`replay` tells which rewards the task has shown so far."""
        self.config, self.replay = config, replay
        self.episode_steps, self.seed = episode_steps, seed

    def takes_over(self, episode: Unfinished) -> bool:
        """Whether the next action of an episode is random."""
        begins = len(episode.actions) < self.disturbed(episode.index)
        return begins or self.unrewarded or self.stuck(episode.rewards)

    @property
    def unrewarded(self) -> bool:
        """Whether no episode has shown a reward yet, so that there is nothing to plan for.

        Where every control step pays the same, to go on is what pays; where each costs the same,
        an end is.
        """
        least, most = self.replay.least, self.replay.most
        return least == most <= 0.0 and not (most < 0.0 and self.replay.ends)

    def disturbed(self, index: int) -> int:
        """Control steps of random actions with which episode `index` begins.

        What follows shows how to go on from where the agent would not have gone.
        """
        cfg = self.config
        if not cfg.disturb_every or index % cfg.disturb_every != 1 % cfg.disturb_every:
            return 0
        most = int(cfg.disturbed * self.episode_steps)
        return int(np.random.default_rng((self.seed, index)).integers(most + 1))

    def stuck(self, rewards: Sequence[float]) -> bool:
        """Whether an episode with these rewards goes on with random actions.

        It does while the control steps since its last reward are in an odd multiple of `patience`:
        values that expect nothing anywhere would let the agent stay where it is.
        """
        patience, least, most = self.config.patience, self.replay.least, self.replay.most
        if not patience or least == most:
            return False
        little = least + LITTLE * (most - least)
        waited = next((i for i, r in enumerate(reversed(rewards)) if r > little), len(rewards))
        return waited // patience % 2 == 1

    def turn(self, episode: Unfinished) -> int:
        """Which kind of random actions is next; every kind has its turn."""
        patience = self.config.patience
        return episode.index + (len(episode.actions) // patience if patience else 0)

    def noise(self, index: int, progress: float) -> float:
        """Share of the exploration noise in episode `index`, at this share of the training."""
        cfg = self.config
        if cfg.greedy_every and index % cfg.greedy_every == 0:
            return 0.0
        return 1.0 - (1.0 - cfg.final_exploration) * min(1.0, 2 * progress)


class RandomActions:
    """Random actions: white, held, or held at the bounds, in turn.

    White noise alone hardly moves heavy systems; held actions reach further.
    """

    HOLDS = ((1, 1), (1, 20), (8, 30))  # shortest and longest hold in control steps, by kind

    def __init__(self, space: ActionSpace, count: int, seed: int) -> None:
        """For `count` environments."""
        self.space = space
        self.rng = torch.Generator().manual_seed(seed)
        self._left = torch.zeros(count, dtype=torch.int64)
        self._actions = torch.zeros(count, space.dim)

    def act(self, row: int, turn: int) -> NDArray[np.float32]:
        """Action (A,) for the next control step of environment `row`; the kind goes by `turn`."""
        kind = turn % len(self.HOLDS)
        if self._left[row] == 0:
            low, high = self.HOLDS[kind]
            self._left[row] = torch.randint(low, high + 1, (), generator=self.rng)
            action = self.space.sample((), self.rng, self._actions[row])
            # Discrete choices are one-hot and stay as they are.
            self._actions[row] = action.sign() if kind == 2 else action
        self._left[row] -= 1
        return self._actions[row].numpy()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        return {"rng": self.rng.get_state(), "left": self._left, "actions": self._actions}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.rng.set_state(state["rng"])
        self._left.copy_(state["left"])
        self._actions.copy_(state["actions"])
