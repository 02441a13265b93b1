"""The jobs by name: `cfr-icl NAME ...`, the same as `python -m jobs.NAME ...`."""

from __future__ import annotations

import ast
import importlib
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import did_you_mean

FOLDER = Path(__file__).parent
COMMANDS = (
    "prepare",
    "train",
    "tune",
    "evaluate",
    "claims",
    "predict",
    "serve",
    "demo",
    "track_sync",
    "import_checkpoint",
    "export_checkpoint",
)
SHELLS = ("bash", "zsh", "tcsh")


def listed() -> str:
    """A line for every job, from the first line of its docstring."""
    lines = ["cfr-icl NAME ...   (or python -m jobs.NAME ...); cfr-icl NAME --help lists its options.", ""]
    for name in COMMANDS:
        about = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
        lines.append(f"  {_spelled(name):<19}{about.splitlines()[0].partition(': python -m')[0]}")
    lines += [
        "",
        "  --version          the version",
        f"  --completion SHELL a script for {', '.join(SHELLS)}: what a Tab",
    ]
    return "\n".join(
        [*lines, "                     completes; eval it, or put it where the shell looks for such scripts"]
    )


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def own_version() -> str:
    try:
        return version("cfr-icl")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown (not installed)"


def completion(shell: str) -> str:
    """The shell's script that completes names of jobs and their options, written by tyro."""
    import contextlib
    import io

    import tyro

    from pipeline.config import TrainConfig
    from pipeline.config.evaluation import ClaimsConfig, EvaluateConfig, PredictConfig
    from pipeline.config.serving import ServeConfig
    from pipeline.config.sweeps import CfrSweepConfig

    kinds = {
        "train": TrainConfig,
        "tune": CfrSweepConfig,
        "evaluate": EvaluateConfig,
        "claims": ClaimsConfig,
        "predict": PredictConfig,
        "serve": ServeConfig,
    }
    kinds |= {name: importlib.import_module(f"jobs.{name}").Args for name in COMMANDS if name not in kinds}
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        named = {_spelled(name): kind for name, kind in kinds.items()}
        tyro.extras.subcommand_cli_from_dict(named, prog="cfr-icl", args=["--tyro-print-completion", shell])
    return said.getvalue()


def main() -> None:
    """Run the job that the command line names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(listed())
        return
    if words[0] in ("-V", "--version"):
        print(f"cfr-icl {own_version()}")
        return
    if words[0] == "--completion":
        if len(words) != 2 or words[1] not in SHELLS:
            sys.exit(_wrong(f"--completion takes one of {', '.join(SHELLS)}."))
        print(completion(words[1]))
        return
    name = words[0].replace("-", "_")
    if name not in COMMANDS:
        hint = did_you_mean(words[0], list(map(_spelled, COMMANDS)))
        sys.exit(_wrong(f"There is no job {words[0]!r}.{hint} cfr-icl lists them."))
    del sys.argv[1]
    runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)


def _wrong(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
