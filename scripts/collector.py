"""Collecting episodes one control step at a time, in a way that can be resumed at any step."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from envs import EnvConfig, make_env
from scripts.tensor_files import read_tensors, write_tensors
from world_models import CheckpointError, Episode


@dataclass
class Unfinished:
    """An episode in progress."""

    index: int  # its number in the training
    obs: list[NDArray[Any]]  # one more than actions, (O,) each
    actions: list[NDArray[np.float32]] = field(default_factory=list)  # (A,) each
    rewards: list[float] = field(default_factory=list)


class Collector:
    """N environments that step together; every episode has a number and a seed of its own."""

    def __init__(
        self,
        config: EnvConfig,
        newest: int,
        count: int,
        seed: int,
        processes: bool = False,
    ) -> None:
        """Episodes keep the `newest` numbers of observations, the last ones.

        With `processes` every environment has one of its own, and `send` returns at once.
        """
        self.newest, self.seed, self.begun = newest, seed, 0
        makers = [partial(_make, config)] * count
        # Resets are ours to make, because every episode has its own seed.
        mode = gymnasium.vector.AutoresetMode.DISABLED
        self.envs: AsyncVectorEnv | SyncVectorEnv
        if processes:
            # Drawing contexts do not survive a fork.
            context = "spawn" if config.obs == "pixels" else None
            self.envs = AsyncVectorEnv(makers, autoreset_mode=mode, context=context)
        else:
            self.envs = SyncVectorEnv(makers, autoreset_mode=mode)
        self.episodes = [Unfinished(-1, [])] * count
        self._begin(range(count))

    @property
    def obs(self) -> NDArray[Any]:
        """The present observations (N, O)."""
        return np.stack([episode.obs[-1] for episode in self.episodes])

    def send(self, actions: NDArray[np.float32]) -> None:
        """Let the environments take `actions` (N, A); `receive` must follow."""
        self._sent = actions
        if isinstance(self.envs, AsyncVectorEnv):
            self.envs.step_async(actions)

    def receive(self, longest: int) -> list[tuple[int, Episode]]:
        """Wait for the environments; the rows whose episode ended, and have begun another.

        Episodes of `longest` control steps or more are cut.
        """
        terminated, over = self._take()
        cut = [row for row, one in enumerate(self.episodes) if len(one.actions) >= longest]
        over = sorted({*over, *cut})
        ended = []
        for row in over:
            done = self.episodes[row]
            obs, actions = self._newest_of(row), self._actions_of(row)
            episode = Episode(obs, actions, torch.tensor(done.rewards), bool(terminated[row]))
            ended.append((row, episode))
        self._begin(over)
        return ended

    def state(self) -> dict[str, Tensor]:
        """The episodes in progress as tensors."""
        found = {"begun": torch.tensor(self.begun)}
        for row, episode in enumerate(self.episodes):
            found[f"{row}.index"] = torch.tensor(episode.index)
            found[f"{row}.obs"] = self._newest_of(row)
            found[f"{row}.actions"] = self._actions_of(row)
        return found

    def restore(self, state: dict[str, Tensor]) -> NDArray[np.bool_]:
        """Go on where `state` was taken, by repeating its actions in the environments.

        Returns which rows do not repeat themselves (N,); those have begun their episode anew.
        Raises CheckpointError for the state of another number of environments.
        """
        rows = range(len(self.episodes))
        held = sum(name.endswith(".index") for name in state)
        if held != len(rows):
            raise CheckpointError(
                f"a training with train.num_envs={held} cannot go on with {len(rows)}"
            )
        indices = [int(state[f"{row}.index"]) for row in rows]
        past = [state[f"{row}.actions"].numpy() for row in rows]
        longest = max(map(len, past))
        # All step together: an environment with less to repeat idles until its time has come.
        padded = np.zeros((longest, *self.envs.action_space.shape), np.float32)  # type: ignore[misc]
        for row, actions in enumerate(past):
            padded[longest - len(actions) :, row] = actions
        self._reset(rows, indices)
        for step, actions in enumerate(padded, 1):
            self.send(actions)
            _, over = self._take()
            idle = [row for row in rows if longest - len(past[row]) >= step]
            self._reset(sorted({*idle, *over}), indices)
        failed = [not torch.equal(self._newest_of(row), state[f"{row}.obs"]) for row in rows]
        self._reset([row for row in rows if failed[row]], indices)
        self.begun = int(state["begun"])
        return np.array(failed)

    def close(self) -> None:
        """Close the environments, and end their processes."""
        self.envs.close()

    def episode_seed(self, index: int) -> int:
        """Seed of episode number `index`, below 2**32; other trainings have others."""
        return int(np.random.SeedSequence((self.seed, index)).generate_state(1)[0])

    def _take(self) -> tuple[NDArray[np.bool_], list[int]]:
        """Note what the actions led to: where tasks have ended (N,), rows of ended episodes."""
        if isinstance(self.envs, AsyncVectorEnv):
            obs, rewards, terminated, truncated, _ = self.envs.step_wait()
        else:
            obs, rewards, terminated, truncated, _ = self.envs.step(self._sent)
        for row, episode in enumerate(self.episodes):
            episode.obs.append(obs[row])
            episode.actions.append(self._sent[row])
            episode.rewards.append(float(rewards[row]))
        return terminated, np.flatnonzero(terminated | truncated).tolist()

    def _begin(self, rows: Sequence[int]) -> None:
        """Begin the next episodes in `rows`."""
        indices = [episode.index for episode in self.episodes]
        for row in rows:
            indices[row] = self.begun
            self.begun += 1
        self._reset(rows, indices)

    def _reset(self, rows: Sequence[int], indices: Sequence[int]) -> None:
        """Begin the episodes with these numbers, one for every row, in `rows` alone."""
        if not rows:
            return
        mask = np.isin(np.arange(len(self.episodes)), rows)
        seeds: list[int | None] = [self.episode_seed(index) for index in indices]
        obs, _ = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        for row in rows:
            self.episodes[row] = Unfinished(indices[row], [obs[row]])

    def _newest_of(self, row: int) -> Tensor:
        """What was new in each observation of an episode in progress, (T + 1, newest)."""
        return torch.from_numpy(np.stack([obs[-self.newest :] for obs in self.episodes[row].obs]))

    def _actions_of(self, row: int) -> Tensor:
        """The actions of an episode in progress, (T, A)."""
        taken = self.episodes[row].actions
        shape = (len(taken), *self.envs.single_action_space.shape)  # type: ignore[misc]
        return torch.from_numpy(np.array(taken, np.float32).reshape(shape))


def _make(config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """An environment; in a process of its own it leaves Ctrl-C to the training."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make_env(config)


def episode_path(folder: Path, index: int) -> Path:
    """File of episode number `index`."""
    return folder / f"{index:06d}.safetensors"


def write_episode(folder: Path, index: int, episode: Episode) -> None:
    """Write an episode, whole or not at all."""
    tensors = {"obs": episode.obs, "actions": episode.actions, "rewards": episode.rewards}
    ended = torch.tensor(episode.terminated)
    write_tensors(episode_path(folder, index), {**tensors, "terminated": ended})


def read_episode(folder: Path, index: int) -> Episode:
    """Read an episode back. Raises CheckpointError if it is not there or torn."""
    path = episode_path(folder, index)
    tensors = read_tensors(path)
    try:
        found = [tensors[name] for name in ("obs", "actions", "rewards")]
        return Episode(found[0], found[1], found[2], bool(tensors["terminated"]))
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
