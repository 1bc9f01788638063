"""The MPC agent and how it runs episodes."""

from agents.agent import AgentConfig, Memory, MPCAgent
from agents.episodes import EpisodeRecord, run_episodes
from agents.goal_episodes import run_goal_episodes
from agents.protocol import GoalProtocol, Protocol

__all__ = [
    "AgentConfig",
    "EpisodeRecord",
    "GoalProtocol",
    "MPCAgent",
    "Memory",
    "Protocol",
    "run_episodes",
    "run_goal_episodes",
]
