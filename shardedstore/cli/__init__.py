"""The command line, which calls the public API."""

import atexit
import gc

from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.main import main

__all__ = ["ExitCode", "main"]

# At its end, Python collects garbage several times. The objects of all imported modules make that a sixth of the time of a short command.
atexit.register(gc.freeze)
