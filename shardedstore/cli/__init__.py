"""The command line, which calls the public API."""

import atexit
import gc

from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.main import main

__all__ = ["ExitCode", "main"]

# Python collects garbage several times as it ends. For the objects of all imported modules, this takes a sixth of a short command.
atexit.register(gc.freeze)
