"""The command line, which turns words into calls of the public face."""

from shardedstore.cli.common import FAILED, STOPPED, UNUSABLE
from shardedstore.cli.main import main

__all__ = ["FAILED", "STOPPED", "UNUSABLE", "main"]
