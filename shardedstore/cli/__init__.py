"""The command line, which calls the public API."""

from shardedstore.cli.common import FAILED, HOLES, STOPPED, UNUSABLE
from shardedstore.cli.main import main

__all__ = ["FAILED", "HOLES", "STOPPED", "UNUSABLE", "main"]
