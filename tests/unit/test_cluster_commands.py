"""The command lines in the files of cluster/ name jobs, commands and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from jobs import evaluate, prepare, train, tune_cfr, tune_icl

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text()
AWS = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
ENTRYPOINT = yaml.safe_load((CLUSTER / "kuberay-train.yaml").read_text())["spec"]["entrypoint"]


def parse_tune(args: list[str]) -> object:
    kind, *rest = args
    return {"icl": tune_icl.parse, "cfr": tune_cfr.parse}[kind](rest)


PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "prepare": prepare.parse,
    "train": train.parse,
    "evaluate": evaluate.parse,
    "tune": parse_tune,
}
END = {";", "&&", "||", "|", "&", "--", ">", "#"}


def shown() -> list[str]:
    """The lines of the code blocks of the README."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```", README, re.S | re.M)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands() -> list[list[str]]:
    """Every command line, split into words."""
    keys = ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")
    lines = [*shown(), ENTRYPOINT, *(command for key in keys for command in AWS[key])]
    # Lines of a command that spans several inside quotes do not split; none of them holds what is looked for.
    split = []
    for line in lines:
        try:
            split.append(shlex.split(line.replace(";", " ; "), comments=True))
        except ValueError:
            assert "ray " not in line and "jobs" not in line, line
    return split


def arguments(words: list[str], start: int) -> list[str]:
    end = next((i for i in range(start, len(words)) if words[i] in END), len(words))
    return words[start:end]


def test_jobs_accept_what_is_shown() -> None:
    seen = []
    for words in commands():
        for i, word in enumerate(words):
            job = re.fullmatch(r"jobs/(\w+)\.py", word) or (words[i - 1] == "-m" and re.fullmatch(r"jobs\.(\w+)", word))
            if job:
                PARSERS[job[1]](arguments(words, i + 1))
                seen.append(job[1])
    assert set(seen) == set(PARSERS) and len(seen) >= 6


def options(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if word.startswith("-") and word != "--"}


def known(command: click.Command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


def test_ray_has_the_commands_and_options() -> None:
    from ray.scripts.scripts import cli

    seen = set()
    for words in commands():
        for i, word in enumerate(words[:-1]):
            if word.rpartition("/")[2] != "ray" or words[i + 1] not in cli.commands:
                continue
            command, rest = cli.commands[words[i + 1]], i + 2
            seen.add(words[i + 1])
            if isinstance(command, click.Group):
                command, rest = command.commands[words[i + 2]], i + 3
            assert options(arguments(words, rest)) <= known(command), words
    assert seen >= {"up", "down", "dashboard", "exec", "rsync-down", "start", "stop", "job"}
    # The watcher's own call.
    watcher = (CLUSTER / "spot_watch.py").read_text()
    drain = cli.commands["drain-node"]
    used = re.findall(r"\"(--[a-z-]+)\"", watcher.split("def drain(")[1].split("def main")[0])
    assert set(used) and set(used) <= known(drain)
    reason = next(p for p in drain.params if "--reason" in p.opts)
    assert isinstance(reason.type, click.Choice) and "DRAIN_NODE_REASON_PREEMPTION" in reason.type.choices


def test_mlflow_has_the_options() -> None:
    from mlflow.cli import cli

    documents = yaml.safe_load_all((CLUSTER / "kuberay-settings.yaml").read_text())
    pod = next(doc for doc in documents if doc["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    servers = [
        words for words in [*commands(), pod["command"] + pod["args"]] if "mlflow" in words and "server" in words
    ]
    assert len(servers) == 2
    for words in servers:
        assert options(arguments(words, words.index("server"))) <= known(cli.commands["server"])


def test_the_watcher_is_in_the_image_and_has_the_option() -> None:
    (words,) = [words for words in commands() if "/opt/cfr-icl/cluster/spot_watch.py" in words]
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert "WORKDIR /opt/cfr-icl\n" in dockerfile and "COPY cluster/spot_watch.py cluster/\n" in dockerfile
    assert options(words) == {"--address"}
    assert 'add_argument("--address"' in (CLUSTER / "spot_watch.py").read_text()


@pytest.mark.parametrize("path", sorted(p.name for p in CLUSTER.iterdir() if p.is_file() and p.name != "README.md"))
def test_every_file_has_its_line(path: str) -> None:
    table = README.split("\n\n")[1]
    assert f"`{path}`" in table


def test_local_sh_has_the_commands() -> None:
    script = (CLUSTER / "local.sh").read_text()
    used = set(re.findall(r"cluster/local\.sh ([a-z-]+)", README))
    assert used == {"start", "env", "add-node", "remove-node", "stop"}
    assert used <= set(re.findall(r"^    ([a-z-]+)\) ", script, re.M))
