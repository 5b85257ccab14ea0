"""Exit codes: one table for all errors, and the page that describes it."""

import errno
import os
import re
import subprocess
from contextlib import suppress

import pytest
import zarr
from click.testing import CliRunner
from paths import ROOT

from shardedstore import cli, errors
from shardedstore.cli.exit_codes import OF_CODES, OF_ERRORS, ExitCode, exit_code_of

PAGE = (ROOT / "docs" / "exit-codes.md").read_text()
CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type)
    and issubclass(found, Exception)
    and found.__module__ == errors.__name__
    and not found.__name__.startswith("_")
]


def caused(error, cause):
    error.__cause__ = cause
    return error


def failed(*codes):
    return errors.ShardsFailed("failed", [errors.ShardError("t[0]", "cause", code=code) for code in codes])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.DestinationError("x"), 2),
        (caused(errors.DestinationError("x"), OSError(errno.ENOSPC, "full")), 5),
        (caused(errors.DestinationError("x"), ConnectionResetError()), 5),
        (caused(errors.ConfigError("x"), FileNotFoundError()), 2),
        (errors.LockedError("x"), 5),
        (errors.SourceChangedError("x"), 5),
        (caused(errors.CorruptError("x"), TimeoutError()), 2),
        (errors.ClusterError("x"), 5),
        (PermissionError(errno.EACCES, "x"), 2),
        (TimeoutError(), 5),
        (failed("no-space"), 1),
        (failed("temporary", "no-space"), 1),
        (failed("temporary", "lost-result"), 5),
        (failed("a-code-of-a-later-version"), 1),
        (errors.JobStopped("x", "time"), 10),
        (errors.JobStopped("x", "SIGUSR1"), 10),
        (errors.JobStopped("x", "SIGTERM"), 143),
        (errors.JobStopped("x", "SIGINT"), 130),
        (errors.GuardsFailed("x", ()), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_the_exit_code_of_an_error(error, code):
    assert exit_code_of(error) == code


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small memory file system")
def test_a_disk_that_is_full_before_the_first_shard_is_temporary(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        with suppress(OSError), open(disk / "full", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        zarr.create_array(tmp_path / "a.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
        done = CliRunner().invoke(cli.main, ["convert", str(tmp_path / "a.zarr"), str(disk / "out"), "--to", "zip"])
        assert (done.exit_code, "No space left on device" in done.stderr) == (5, True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_table_has_every_error():
    assert set(CLASSES) <= OF_ERRORS.keys()
    assert set(OF_CODES) == set(errors.CODES)


def test_the_page_has_the_table():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(str(code.value), code.name, code.meaning) for code in ExitCode]


def test_the_page_has_every_error():
    rows = re.findall(r"^\| `(\w+)` \| `([a-z-]+)` \| (\d+)\D", PAGE, re.MULTILINE)
    classes = [one for one in CLASSES if one is not errors.ShardError]
    assert sorted(rows) == sorted((one.__name__, one.code, str(OF_ERRORS[one].value)) for one in classes)
