"""Collecting episodes one control step at a time, in a way that can be resumed at any step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpc import ActionSpace
from world_models import CheckpointError, Episode


class Collector:
    """One environment and the episode in progress; every episode has a seed of its own."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        self.env, self.seed = env, seed
        self.index = 0  # of the episode in progress
        self.obs: list[NDArray[np.float32]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.rewards: list[float] = []
        self._begin(0)

    def begin(self) -> None:
        """Reset the environment for the next episode."""
        self._begin(self.index + 1)

    @property
    def episode_seed(self) -> int:
        """Seed of the episode in progress, below 2**32; other runs have others."""
        return int(np.random.SeedSequence((self.seed, self.index)).generate_state(1)[0])

    def step(self, action: NDArray[np.float32]) -> Episode | None:
        """Take `action` (A,); returns the episode if this was its last step (call `begin` next)."""
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self.obs.append(obs)
        self.actions.append(action)
        self.rewards.append(float(reward))
        if not (terminated or truncated):
            return None
        return Episode(
            torch.from_numpy(np.stack(self.obs)),
            torch.from_numpy(np.stack(self.actions)),
            torch.tensor(self.rewards),
            bool(terminated),
        )

    def state(self) -> dict[str, Tensor]:
        """The episode in progress as tensors."""
        shape = (len(self.actions), *self.env.action_space.shape)  # type: ignore[misc]
        actions = np.array(self.actions, np.float32).reshape(shape)
        return {
            "obs": torch.from_numpy(np.stack(self.obs)),
            "actions": torch.from_numpy(actions),
            "index": torch.tensor(self.index),
        }

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Go on where `state` was taken, by repeating its actions in the environment.

        Returns False, with the episode begun anew, if the environment does not repeat itself.
        """
        self._begin(int(state["index"]))
        for action in state["actions"].numpy():
            if self.step(action) is not None:
                break
        repeated = np.array_equal(np.stack(self.obs), state["obs"].numpy())
        if not repeated:
            self._begin(self.index)
        return repeated

    def _begin(self, index: int) -> None:
        self.index = index
        obs, _ = self.env.reset(seed=self.episode_seed)
        self.obs, self.actions, self.rewards = [obs], [], []


class RandomActions:
    """Random actions for the first episodes: white, held, or held at the bounds, in turn.

    White noise alone hardly moves heavy systems; held actions reach further.
    """

    HOLDS = ((1, 1), (1, 20), (8, 30))  # shortest and longest hold in control steps, by kind

    def __init__(self, space: ActionSpace, seed: int) -> None:
        self.space = space
        self.rng = torch.Generator().manual_seed(seed)
        self._left = 0
        self._action = torch.zeros(space.dim)

    def act(self, episode: int) -> NDArray[np.float32]:
        """Action (A,) for the next control step of episode number `episode`."""
        kind = episode % len(self.HOLDS)
        if self._left == 0:
            low, high = self.HOLDS[kind]
            self._left = int(torch.randint(low, high + 1, (), generator=self.rng))
            self._action = self.space.sample((), self.rng, self._action)
            if kind == 2:
                # Discrete choices are one-hot and stay as they are.
                self._action = self._action.sign()
        self._left -= 1
        return self._action.numpy()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        return {
            "rng": self.rng.get_state(),
            "left": torch.tensor(self._left),
            "action": self._action,
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.rng.set_state(state["rng"])
        self._left, self._action = int(state["left"]), state["action"]


def episode_path(folder: Path, index: int) -> Path:
    """File of episode number `index`."""
    return folder / f"{index:06d}.safetensors"


def write_episode(folder: Path, index: int, episode: Episode) -> None:
    """Write an episode under a temporary name, flush it to the disk, then rename it."""
    path = episode_path(folder, index)
    fresh = path.with_suffix(".new")
    tensors = {"obs": episode.obs, "actions": episode.actions, "rewards": episode.rewards}
    save_file({**tensors, "terminated": torch.tensor(episode.terminated)}, fresh)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.rename(path)


def read_episode(folder: Path, index: int) -> Episode:
    """Read an episode back. Raises CheckpointError if it is not there or torn."""
    path = episode_path(folder, index)
    try:
        tensors = load_file(path)
        found = [tensors[name] for name in ("obs", "actions", "rewards")]
        return Episode(found[0], found[1], found[2], bool(tensors["terminated"]))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
