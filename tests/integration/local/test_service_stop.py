"""Stops of a running command as systemd and Kubernetes make them, by the rules of the files in examples/operations."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from dask.utils import parse_timedelta
from helpers_jobs import kill_session, wait_until
from paths import ROOT

from shardedstore import ShardedStore

FOLDER = ROOT / "examples" / "operations"
UNIT = (FOLDER / "shardedstore.service").read_text()
POD = yaml.safe_load((FOLDER / "kubernetes-job.yaml").read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
SLOW = ["--bytes-per-second", "400 KiB", "--workers", "2", "--no-report"]


def setting(name):
    return re.search(rf"^{name}=(.*)$", UNIT, re.MULTILINE)[1]


@pytest.fixture
def job(tmp_path):
    """The arguments of a job that takes ten seconds, and its result."""
    data = np.arange(2 << 20, dtype="i8").astype("u1")
    zarr.create_array(tmp_path / "a.zarr", name="a", data=data, chunks=(1 << 16,), compressors=None)
    return [
        "convert",
        str(tmp_path / "a.zarr"),
        str(tmp_path / "out"),
        "--to",
        "zip",
        "--shards",
        "a=65536",
    ], tmp_path / "out"


def start(arguments, log, *before):
    command = [*before, sys.executable, "-m", "shardedstore", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, start_new_session=True, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )


def members(session):
    """The processes of a session, as those of a control group."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(name))
    return found


def zips(out):
    return len(list(out.rglob("*.zarr.zip")))


def check_resumes(arguments, out):
    assert 0 < zips(out) < 33
    done = subprocess.run(
        [sys.executable, "-m", "shardedstore", *arguments],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert ShardedStore.load(out).verify().ok


@pytest.mark.few(1)
@pytest.mark.slow
@pytest.mark.parametrize("mode", [setting("KillMode"), "control-group"])
def test_systemd_stops_the_service(job, tmp_path, mode):
    """With mixed, only the main process gets SIGTERM; with control-group, all do. What is left after the time is killed."""
    arguments, out = job
    given = re.findall(r"--grace \S+", setting("ExecStart"))[0].split()
    process = start([*arguments, *SLOW, *given], tmp_path / "log")
    try:
        wait_until(lambda: zips(out) >= 3, 60, what="three zips")
        begun = time.monotonic()
        for pid in members(process.pid) if mode == "control-group" else [process.pid]:
            os.kill(pid, signal.SIGTERM)
        code = process.wait(parse_timedelta(setting("TimeoutStopSec")))
        assert time.monotonic() - begun < parse_timedelta(setting("TimeoutStopSec"))
        assert str(code) in setting("SuccessExitStatus").split()
        wait_until(lambda: not members(process.pid), 10, what="the end of all processes")
    finally:
        kill_session(process)
    check_resumes(arguments, out)


CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def makes_containers():
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*CONTAINER, "true"], check=False, stderr=subprocess.DEVNULL).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not makes_containers(), reason="this user can't make a namespace of processes with a /proc of its own"
)
def test_kubernetes_ends_the_pod(job, tmp_path):
    """The command is process 1 of its container, for which the kernel ignores signals without a handler."""
    arguments, out = job
    (container,) = POD["containers"]
    grace = container["args"][container["args"].index("--grace") + 1]
    process = start([*arguments, *SLOW, "--grace", grace], tmp_path / "log", *CONTAINER)
    try:
        wait_until(lambda: zips(out) >= 3, 60, what="three zips")
        (first,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        assert Path(f"/proc/{first}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()[-1] == "1"
        os.kill(first, signal.SIGTERM)
        assert process.wait(POD["terminationGracePeriodSeconds"]) == 143
    finally:
        kill_session(process)
    check_resumes(arguments, out)
