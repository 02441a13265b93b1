"""A reader of the documentation: follows a page from its first block to its last, in a folder of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.__main__ import listed
from tests.docs.blocks import ROOT, Block, agree, commands_of, job_of


class Reader:
    """What follows the blocks of one page.

    Attributes:
        printed: by the last block that was run.
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        """`folder`: where `given.give` was. `alone`: every shell block is a process of its own, as it is for a reader.

        Not alone, jobs run in this process, with the Ray that runs in it.
        """
        self.folder, self.alone = folder, alone
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed: str | None = None

    def follow(self, block: Block, kinds: Sequence[str]) -> bool:
        """Do what a block says, if it is of these kinds; returns whether something was run.

        Raises:
            AssertionError: a command fails, or prints something else than the page shows.
        """
        if block.kind == "file":
            (self.folder / block.said).write_text(block.text)
            return False
        if block.kind == "output":
            assert self.printed is None or agree(block.text, self.printed), f"{block} shows not:\n{self.printed}"
            return False
        self.printed = None
        if block.kind not in kinds:
            return False
        with contextlib.chdir(self.folder):
            if block.language == "python":
                self.printed = self._python(block)
            elif self.alone:
                self.printed = self._shell(block, block.text)
            else:
                self.printed = "".join(self._command(block, words) for words in commands_of(block))
        return True

    def _python(self, block: Block) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(block.text, str(block), "exec"), self.names)
        return said.getvalue()

    def _command(self, block: Block, words: list[str]) -> str:
        found = job_of(words)
        if words == ["cfr-icl"]:
            return listed()
        assert found is not None, f"{block}: mark it as long, only jobs run in the tests' own process: {words}"
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                importlib.import_module(f"jobs.{found[0]}").job(found[1:])
            except SystemExit as end:  # of --help
                if end.code:
                    raise
        return said.getvalue()

    def _shell(self, block: Block, text: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, env=environment(self.folder), capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, (
            f"{block} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """The environment of a shell in which `cfr-icl` and `python` are those of this checkout."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    program = programs / "cfr-icl"
    program.write_text(f"#!{sys.executable}\nfrom jobs.__main__ import main\nmain()\n")
    program.chmod(0o755)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT)}
