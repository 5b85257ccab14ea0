"""The command line: its output, its files and its exit codes."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, Summary, cli
from shardedstore.abc import JobEnd, Progress, TaskEnd
from shardedstore.callbacks.lines import ProgressLines
from shardedstore.cli import cluster
from shardedstore.transforms import ToZip

SHARDS = ("--shards", "t=time:60", "--shards", "s=whole")
COUNT = 12  # the shards: the base, s, and ten of t
PROGRESS = re.compile(rf"\d\d:\d\d:\d\d (?:\d+%|starting the workers), (\d+) of {COUNT} shards, .*")


def ended_shards(lines: Sequence[str]) -> list[int]:
    """Return the numbers of ended shards in lines of progress; fail for other lines."""
    found = [PROGRESS.fullmatch(line) for line in lines]
    assert None not in found, lines
    return [int(line[1]) for line in found if line is not None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.zarr"
    root = zarr.create_group(path)
    root.create_array("t", data=np.arange(600 * 4.0).reshape(600, 4), chunks=(20, 4), dimension_names=("time", "x"))
    root.create_array("w", data=np.arange(8), chunks=(4,), dimension_names=("x2",))
    root.create_group("s").create_array("a", data=np.ones((5, 2)), chunks=(1, 2))
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "shardedstore", *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90, check=False
    )


def test_a_config_is_converted(source: Path, tmp_path: Path) -> None:
    config = tmp_path / "view.json"
    ShardedStore.partition(source, {"t": {"time": 60}, "s": "whole"}).save(config)
    done = run("convert", config, tmp_path / "out", "--to", "zip", "--workers", "1")
    assert done.stdout.startswith(f"{COUNT} shards done now"), done.stderr
    same(source, tmp_path / "out")
    anew = invoke("convert", config, tmp_path / "anew", "--to", "zip", "--shards", "t=time:300", "--dry-run")
    assert "now: 3 new;" in anew.stdout


def run_script_without_stdin(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command, if it is installed, with a closed standard input."""
    script = Path(sys.executable).parent / "shardedstore"
    start = [str(script), *arguments] if script.exists() else command(*arguments)
    shell = ["/bin/sh", "-c", 'exec "$@" <&-', "sh"]
    return subprocess.run([*shell, *start], cwd=cwd, capture_output=True, text=True, timeout=90, check=False)


def same(source: Path, result: Path) -> None:
    before, after = zarr.open_group(source, mode="r"), zarr.open_group(ShardedStore.load(result), mode="r")
    for name in ("t", "w", "s/a"):
        np.testing.assert_array_equal(before[name][:], after[name][:])


def error_line(result: Result | subprocess.CompletedProcess[str], code: int) -> str:
    """The line of an error, after checks of the exit code and that there is no traceback."""
    done = result.exit_code if isinstance(result, Result) else result.returncode
    assert done == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# fast commands: help, dry runs and bad input


def test_help_names_commands_rules_and_exit_codes() -> None:
    commands = invoke("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == [
        "cat",
        "check",
        "convert",
        "diff",
        "export",
        "finalise",
        "info",
        "init",
        "jobs",
        "ls",
        "plan",
        "prune",
        "run",
        "serve",
        "status",
        "suggest",
        "unpack",
        "verify",
    ]
    assert all(line.endswith(".") and "..." not in line for line in commands)
    text = " ".join(invoke("convert", "-h").stdout.split())
    for part in ("PATH=time:720", "PATH=720,-1,-1", "PATH=whole", "exit code is 0", "--dry-run", "--scheduler ADDRESS"):
        assert part in text
    assert invoke("--version").stdout.startswith("shardedstore")


def test_module_is_a_command() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


@pytest.mark.parametrize(
    ("rules", "lines"),
    [
        ((), ["at most 42 -> 1", "18.89 kiB decoded; base 18.89 kiB", "/t <=30 -> in the base"]),
        (("6 KiB",), ["at most 42 -> 5", "/t <=30 -> 4 shards"]),
        (("t=6 KiB",), ["at most 42 -> 5", "/t <=30 -> 4 shards"]),
        (("t=time:60",), ["at most 42 -> 11", "/t <=30 -> 10 shards"]),
        (("t=60,-1",), ["at most 42 -> 11", "/t <=30 -> 10 shards"]),
        (("t=whole", "s=whole"), ["at most 42 -> 3", "/s/a <=5 -> in shards of /s", "/t <=30 -> 1 shard"]),
        (("s/*=1,2",), ["at most 42 -> 6", "/s/a <=5 -> 5 shards (5 x 1)"]),
        (("*=time:60",), ["at most 42 -> 11", "/t <=30 -> 10 shards"]),
        (
            ("t=time:60", "16 B"),
            ["at most 42 -> 18", "/t <=30 -> 10 shards", "/s/a <=5 -> 5", "/w <=2 -> 2"],
        ),
    ],
)
def test_rules_and_dry_run(source: Path, rules: tuple[str, ...], lines: list[str]) -> None:
    options = [part for rule in rules for part in ("--shards", rule)]
    before = sorted(source.parent.rglob("*"))
    done = invoke("convert", source, source.parent / "out", "--to", "zip", "--dry-run", *options)
    assert done.exit_code == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for wanted in lines:
        assert wanted in shown
    assert sorted(source.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("half",), "'half' is not a size like '512 MiB': for a path, use 'half=whole'"),
        (("t=half",), "write 'whole', or a size"),
        (("t=time:many",), "'t=time:many' is not a rule"),
        (("t=60,x",), "'t=60,x' is not a rule"),
        (("1 MiB", "2 MiB"), r"--shards divides '\*' twice"),
        (("t=whole", "t=1 MiB"), "--shards divides 't' twice"),
        (("t=time:50",), "use 40 or 60"),
        (("t=depth:5",), "has no dimension 'depth': it has 'time', 'x'"),
        (("nothing=whole",), "the source has no such group or array"),
        (("../t=whole",), r"\.\./t"),
        (("t=0,-1",), "at least 1"),
        (("0",), "size"),
    ],
)
def test_bad_rules(source: Path, rules: tuple[str, ...], message: str) -> None:
    options = [part for rule in rules for part in ("--shards", rule)]
    line = error_line(invoke("convert", source, source.parent / "out", "--to", "zip", *options), cli.ExitCode.UNUSABLE)
    assert re.search(message, line)
    assert not (source.parent / "out").exists()


def test_bad_sources_and_destinations(source: Path) -> None:
    folder = source.parent
    (folder / "empty").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").touch()
    (folder / "file").touch()
    for where, to, message in [
        (folder / "none.zarr", folder / "out", "none.zarr"),
        (folder / "empty", folder / "out", "holds no Zarr"),
        (source, source / "out", "inside"),
        (source, source, "name a folder outside"),
        (source, folder / "mine", r"holds files that no job .* set --overwrite"),
        (source, folder / "file", "file"),
        (source, "https://host/out", "is a web server, which can only be read"),
        (source, folder / "out", None),
    ]:
        before = sorted(folder.rglob("*"))
        done = invoke("convert", where, to, "--to", "zip", "--dry-run")
        if message is None:
            assert done.exit_code == 0
        else:
            assert re.search(message, error_line(done, cli.ExitCode.UNUSABLE))
        assert sorted(folder.rglob("*")) == before


def test_help_is_laid_out() -> None:
    lines = invoke("convert", "--help").stdout.splitlines()
    assert "    SIZE             all larger arrays in blocks of about SIZE decoded bytes" in lines
    assert "    zarr             one ordinary Zarr; a Zarr for each shard with zarr:layout=shards" in lines


def test_bad_options(source: Path) -> None:
    both = invoke("convert", source, "out", "--to", "zip", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    assert "leave out --workers" in error_line(both, cli.ExitCode.UNUSABLE)
    unknown = error_line(invoke("convert", source, "out", "--to", "tar"), cli.ExitCode.UNUSABLE)
    assert "'tar' is not an installed transform: use one of zip, zarr, sharding-codec" in unknown
    for options in (("--to", "zip", "--workers", "0"), ("--to", "zip", "--retries", "-1"), ()):
        done = invoke("convert", source, "out", *options)
        assert done.exit_code == cli.ExitCode.UNUSABLE
        assert "Error" in done.stderr
    name = error_line(invoke("convert", source, "out", "--to", "zip:name=one.zip", *SHARDS), cli.ExitCode.UNUSABLE)
    assert "one.zip" in name


@pytest.mark.parametrize(
    ("address", "code"),
    [("tcp://127.0.0.1:1", cli.ExitCode.TEMPORARY), ("nonsense", cli.ExitCode.UNUSABLE)],
)
def test_wrong_scheduler(source: Path, address: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own process
    done = invoke("convert", source, source.parent / "out", "--to", "zip", "--scheduler", address)
    line = error_line(done, code)
    assert f"no Dask scheduler answers at {address!r}" in line
    assert "tcp://host:8786" in line
    assert not (source.parent / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", "zip"), "'zip' is a sink, not a step: give it as --to zip"),
        (("--step", "recompress:level=5"), "neither a codec nor filters="),
        (("--codec", "nonsense"), "names an unknown codec: install the package that has it"),
        (("--v3",), "v3"),
        (("--to", "zarr"), "a chain has one sink, but --to was given zip and zarr: run two commands"),
        (("--storage", "secret_access_key=x"), "may be secret, but other users can see a command line"),
        (("--storage", "region"), "--storage 'region' has no value: write it as KEY=VALUE"),
        (("--include", "nothing"), "nothing"),
    ],
)
def test_options_that_make_no_sense(source: Path, options: tuple[str, ...], message: str) -> None:
    done = invoke("convert", source, source.parent / "out", "--to", "zip", *options)
    assert message in error_line(done, cli.ExitCode.UNUSABLE)
    assert not (source.parent / "out").exists()


# the life of one destination


@pytest.mark.slow
@pytest.mark.cluster
def test_convert_to_one_zarr_of_v3_with_another_codec(tmp_path: Path) -> None:
    source = to_folder(SOURCES["cube-v2."].contents(), tmp_path / "source.zarr")
    options = ["--v3", "--codec", "gzip:level=9", "--exclude", "simulation/*", "--consolidated", "--workers", "1"]
    done = run("convert", source, tmp_path / "out.zarr", "--to", "sharding-codec", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out.zarr")
    old, new = zarr.open_group(source, mode="r"), zarr.open_consolidated(tmp_path / "out.zarr")
    names = {path for path, node in old.members(max_depth=None) if isinstance(node, zarr.Array)}
    kept = {path for path in names if not path.startswith("simulation/")}
    assert {path for path, node in new.members(max_depth=None) if isinstance(node, zarr.Array)} == kept != names
    for path in kept:
        np.testing.assert_array_equal(new[path][...], old[path][...])
        assert new[path].metadata.zarr_format == 3
        assert "gzip" in str(new[path].metadata.codecs).lower()


@pytest.mark.slow
@pytest.mark.cluster
def test_convert_fails_goes_on_and_is_reported_about(source: Path) -> None:
    folder, out = source.parent, source.parent / "out"
    (folder / "transforms.py").write_text("raise ImportError('a file of the user')\n")
    chunk = source / "t" / "c" / "25" / "0"
    data = chunk.read_bytes()
    chunk.unlink()
    chunk.symlink_to("0")  # a loop to itself, which can't be read
    arguments = "convert", source.name, "out", "--to", "zip", "--workers", "2", *SHARDS

    failed = run(*arguments, cwd=folder)
    assert failed.returncode == cli.ExitCode.FAILED
    lines = failed.stderr.splitlines()
    assert ended_shards(lines[:2]) == [0, COUNT]
    *told, failures, report = lines[2:]
    assert told[-1].endswith("run the same command again to resume")
    assert any(line.startswith("error: shard 't[8]' failed: ") for line in told)
    assert all(line.startswith("error: ") for line in told)
    assert failures == f"note: failed shards: {out}/.shardedstore/failures.jsonl"
    assert report == f"note: report: {out}/.shardedstore/report-1.html"
    assert not (out / "shardedstore.json").exists()

    chunk.unlink()
    chunk.write_bytes(data)
    fixed = run_script_without_stdin(*arguments, cwd=folder)
    assert fixed.returncode == 0, fixed.stderr
    assert re.match(r"[12] shards? done now, 1[01] were done before; .* written\n", fixed.stdout)
    assert fixed.stdout.splitlines()[-1] == str(out / "shardedstore.json")
    same(source, out)

    again = run(*arguments, cwd=folder)
    assert again.returncode == 0
    assert again.stdout.startswith(f"0 shards done now, {COUNT} were done before; 0 B written\n")
    assert ended_shards(again.stderr.splitlines()) == [COUNT]

    foreign = invoke("convert", source, out, "--to", "zip")
    assert "another division" in error_line(foreign, cli.ExitCode.UNUSABLE)
    told = invoke("info", out).stdout
    assert told.startswith(f"{out}: a Zarr in {COUNT} shards\n")
    assert "/t  array (600, 4), chunks (20, 4), 18.75 kiB, 10 zips; float64, " in told
    assert sorted(path.name for path in folder.iterdir()) == ["out", "source.zarr", "transforms.py"]


# info


def test_info(source: Path) -> None:
    folder, out = source.parent, source.parent / "out"
    ShardedStore.partition(source, {"s": "whole"}).map_shards(ToZip(out))
    told = invoke("info", source)
    assert told.exit_code == 0
    assert told.stdout.startswith(f"{source}: a Zarr\n  /  group, v3")
    assert "at most 42 files as a plain Zarr" in told.stdout
    config = invoke("info", out / "shardedstore.json")
    assert config.exit_code == 0
    assert "a Zarr in 2 shards" in config.stdout
    assert config.stdout.splitlines()[1:] == invoke("info", out).stdout.splitlines()[1:]
    one = invoke("info", out / "s.zarr.zip")
    assert one.exit_code == 0
    assert "/a  array (5, 2), chunks (1, 2), 80 B" in one.stdout

    (folder / "cut.zip").write_bytes((out / "s.zarr.zip").read_bytes()[:300])
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text(json.dumps({"a": 1}))
    (folder / "text.txt").write_text("hello")
    for name in ("cut.zip", "broken.json", "other.json", "text.txt", "none", "none.json", "none.zip"):
        assert name in error_line(invoke("info", folder / name), cli.ExitCode.UNUSABLE)


# progress


def test_plain_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = ProgressLines(clock=lambda: now)
    for ended in range(0, 1301, 13):
        lines.on_task_end(TaskEnd(Summary(), Progress(total=1300, done=ended)))
        now += 1
    lines.on_job_end(JobEnd(Summary(), Progress(total=1300, done=1300, seconds=100.0)))
    shown = capsys.readouterr()
    assert [line.partition(" ")[2] for line in shown.err.splitlines()] == [
        "starting the workers, 0 of 1,300 shards",
        "60%, 780 of 1,300 shards",
        "100%, 1,300 of 1,300 shards, after 1 min 40 s",
    ]
    assert shown.out == ""


@pytest.mark.parametrize(("seconds", "shown"), [(59, 0), (61, 2)])
def test_lines_below_a_view_are_for_long_jobs_and_not_red(
    capsys: pytest.CaptureFixture[str], seconds: float, shown: int
) -> None:
    now = 0.0
    lines = ProgressLines(clock=lambda: now, first=60.0, err=False)
    lines.on_progress(Progress(total=9, done=1))
    now = seconds
    lines.on_progress(Progress(total=9, done=8))
    lines.on_job_end(JobEnd(Summary(), Progress(total=9, done=9)))
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == shown
    assert printed.err == ""


@pytest.mark.slow
@pytest.mark.cluster
def test_terminal_has_a_bar(source: Path) -> None:
    arguments = command("convert", source, source.parent / "out", "--to", "zip", "--workers", "1", *SHARDS)
    child, terminal = pty.fork()
    if child == 0:  # exec at once, since the parent may have threads
        os.execve(sys.executable, arguments, {**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    shown = b""
    end = time.monotonic() + 60
    while time.monotonic() < end and select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the sign of a closed other side on Linux
            break
        if not part:
            break
        shown += part
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    text = shown.decode()
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert "\x1b[" in text
    assert "━" in text
    assert f"{COUNT} of {COUNT} shards" in text
    assert "Traceback" not in text


# processes

# A shell that starts the tests in the background makes them and their children ignore SIGINT.
FROM_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from shardedstore.cli import main
main()
"""


@pytest.fixture
def stuck(source: Path) -> Iterator[Path]:
    """A source with a chunk whose reading never ends until `unstick` restores it."""
    chunk = source / "t" / "c" / "29" / "0"
    chunk.rename(source.parent / "chunk")
    os.mkfifo(chunk)
    return source


def unstick(source: Path) -> None:
    chunk = source / "t" / "c" / "29" / "0"
    chunk.unlink()
    (source.parent / "chunk").rename(chunk)


def start_stuck(stuck: Path, *options: str) -> subprocess.Popen[str]:
    """Start a job as the leader of a process group, and wait until it has written a shard of t."""
    out = stuck.parent / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", FROM_TERMINAL, "convert", stuck, out, "--to", "zip", *SHARDS, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not (out / "t" / "8.zarr.zip").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def group_members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgrp = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.few(1)
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_half_way(stuck: Path, how: signal.Signals) -> None:
    process = start_stuck(stuck, "--workers", "1", "--grace", "1s")
    os.killpg(process.pid, how)  # Ctrl-C, systemd and Slurm reach the workers too
    _, shown = process.communicate(timeout=60)
    code = {signal.SIGINT: cli.ExitCode.INTERRUPTED, signal.SIGTERM: cli.ExitCode.TERMINATED}[how]
    assert process.returncode == code, shown
    first, *told, last = shown.splitlines()
    assert ended_shards([first]) == [0]
    assert any(
        line.startswith(f"{how.name}: no new shard starts; running shards have 1.00 s to finish") for line in told
    )
    assert re.match(
        rf"stopped by {how.name}; \d+ of {COUNT} shards are done and \d+ are left: run the same command", last
    )
    end = time.monotonic() + 10
    while group_members(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not group_members(process.pid)
    out = stuck.parent / "out"
    assert not (out / "shardedstore.json").exists()
    unstick(stuck)
    again = invoke("convert", stuck, out, "--to", "zip", *SHARDS, "--dry-run")
    assert again.exit_code == 0, again.stderr
    if how == signal.SIGINT:
        done = run("convert", stuck, out, "--to", "zip", *SHARDS, "--workers", "1")
        assert done.returncode == 0, done.stderr
        assert re.match(r"\d+ shards? done now, \d+ were done before;", done.stdout)
        same(stuck, out)


@pytest.mark.slow
@pytest.mark.cluster
def test_cluster_of_others(source: Path, tmp_path: Path) -> None:
    address_file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-show"]
    processes = [subprocess.Popen([*dask, "scheduler", *options, "--scheduler-file", address_file], **quiet)]
    try:
        end = time.monotonic() + 30
        while not address_file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        address = json.loads(address_file.read_text())["address"]
        worker = [
            *dask,
            "worker",
            address,
            "--nthreads",
            "1",
            "--no-dashboard",
            "--local-directory",
            tmp_path / "space",
        ]
        convert = command("convert", source, tmp_path / "out", "--to", "zip", *SHARDS, "--scheduler", address)
        with subprocess.Popen(convert, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
            assert job.stderr.readline() == f"the cluster at {address} has no workers: waiting for the first\n"
            processes += [subprocess.Popen([*worker, "--name", name], **quiet) for name in ("one", "two")]
            told, shown = job.communicate(timeout=60)
        assert job.returncode == 0, shown
        assert told.startswith(f"{COUNT} shards done now; ")
        lines = shown.splitlines()
        ended = ended_shards(lines)
        assert (ended[0], ended[-1]) == (0, COUNT)
        assert ended == sorted(ended)
        assert all(process.poll() is None for process in processes)  # the cluster belongs to somebody else
        same(source, tmp_path / "out")
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
