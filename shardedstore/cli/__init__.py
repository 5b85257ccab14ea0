"""The command line, which calls the public API."""

from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.main import main

__all__ = ["ExitCode", "main"]
