"""A job as a process: what it says about errors, and its exit code."""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from pipeline.engine import stop
from pipeline.errors import Unavailable, error_in, user_error_in
from pipeline.redact import mask_uris


def main(job: Callable[[list[str]], None]) -> NoReturn:
    """Run a job with the command line, and end with its exit code.

    0 done; 2 the user's mistake (one message); 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal; 141
    nobody reads what it prints; 1 all else.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name or a message may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    stop.listen()
    try:
        job(sys.argv[1:])
        code: Any = 0
        sys.stdout.flush()
    except SystemExit as end:
        code = stop.code() if stop.heard() else end.code  # Ray makes another one of it within its calls
        if stop.heard():
            print("stopped: what was finished is kept, and the same command continues", file=sys.stderr)
    except BrokenPipeError:  # `| head` has seen enough
        code = 141
    except Exception as error:
        mistake, away = user_error_in(error), error_in(error, Unavailable)
        if mistake is None and away is None:
            print(mask_uris(traceback.format_exc()), end="", file=sys.stderr)
        else:
            print(f"error: {mask_uris(str(mistake or away))}", file=sys.stderr)
        code = 1 if mistake is None else 2
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 141
    with stop.stoppable(lambda: None):  # what is done is done: one signal does not change how it ended
        if stop.heard():
            stop.note_engine()
        if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():  # --help needs none
            ray.shutdown()
        stop.kill_engine()  # a signal may have come in the middle of its start
    gc.freeze()  # else the interpreter looks for cycles in all that was imported: a second at the end of every job
    sys.exit(code)
