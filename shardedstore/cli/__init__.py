"""The command line, which turns words into calls of the public face."""

from shardedstore.cli.common import FAILED, HOLES, STOPPED, UNUSABLE
from shardedstore.cli.main import main

__all__ = ["FAILED", "HOLES", "STOPPED", "UNUSABLE", "main"]
