"""The `telic` command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True)
class Command:
    """A subcommand: where its code is, one line about it, and examples."""

    module: str  # has main(files, overrides) -> exit code, and optionally DEFAULTS
    summary: str
    examples: tuple[str, ...]
    takes_config: bool = True


COMMANDS = {
    "train": Command(
        "scripts.train",
        "train a world model while controlling with it; resume a training",
        (
            "telic train env=dmc/cartpole-swingup planner=grasp train.frames=30000 seed=1",
            "telic train env=gym/Pendulum-v1 planner=mppi planner.horizon=5",
            "telic train resume=runs/cartpole-swingup-grasp-seed1",
            "telic train --config debug        every size shrunk: the pipeline in seconds",
        ),
    ),
    "control": Command(
        "scripts.control",
        "control with a trained model: return, latency, pictures of a plan, video",
        ("telic control run=runs/cartpole-swingup-grasp-seed1 planner=grasp video=true",),
    ),
    "evaluate": Command(
        "scripts.evaluate",
        "compare planners on the same model and the same starts",
        (
            "telic evaluate run=runs/cartpole-swingup-grasp-seed1 planner=grasp,cem episodes=10",
            "telic evaluate run=runs/... planner=grasp,gradient planner.horizon=12",
        ),
    ),
    "list": Command(
        "scripts.listing",
        "list planners, envs, models or configs",
        ("telic list planners", "telic list envs"),
        takes_config=False,
    ),
    "doctor": Command(
        "scripts.doctor",
        "check this machine: torch, compiler, rendering, W&B",
        ("telic doctor",),
        takes_config=False,
    ),
    "check-env": Command(
        "scripts.check_env",
        "check an environment: spaces, seeding, speed",
        ("telic check-env env=gym/Pendulum-v1",),
        takes_config=False,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The argument parser; options are `key=value`, so each command takes a list of words."""
    top = argparse.ArgumentParser(
        prog="telic",
        description="Train a latent world model and control with it by planning.",
        epilog="examples:\n  "
        + "\n  ".join(command.examples[0] for command in COMMANDS.values())
        + "\n\n`telic COMMAND --help` explains a command and shows its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        one.add_argument("-h", "--help", action="store_true", help="show this help and exit")
        if command.takes_config:
            one.add_argument(
                "--config",
                action="append",
                default=[],
                metavar="FILE",
                help="YAML file or bundled config, below the overrides; may be repeated",
            )
        one.add_argument("options", nargs="*", metavar="key=value", help="options, dotted")
    return top


def show_help(top: argparse.ArgumentParser, name: str) -> None:
    """Help of one command, with its examples and the defaults of all its options."""
    command = COMMANDS[name]
    defaults = getattr(importlib.import_module(command.module), "defaults_text", lambda: "")()
    actions = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    one = actions[0].choices[name]
    one.epilog = "examples:\n  " + "\n  ".join(command.examples)
    if defaults:
        one.epilog += "\n\noptions and their defaults:\n" + defaults
    one.print_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 done, 1 failed, 2 wrong usage, 130 interrupted with everything saved."""
    top = parser()
    known = top.parse_args(arguments)
    if known.help:
        show_help(top, known.command)
        return 0
    console = Console(stderr=True)
    handler = RichHandler(console=console, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    # Imported late, so that help and usage errors do not wait for torch.
    from scripts.settings import UsageError

    try:
        module = importlib.import_module(COMMANDS[known.command].module)
        return int(module.main(getattr(known, "config", []), known.options))
    except UsageError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    except Exception:
        logging.getLogger(__name__).exception("telic %s failed", known.command)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
