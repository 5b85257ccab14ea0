"""The files in examples/operations: each is valid for the program that reads it, and every option of a command exists."""

import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from paths import ROOT

from shardedstore.cli.cluster import check_cluster
from shardedstore.cli.main import main
from shardedstore.jobfiles.read import read_job_file

FOLDER = ROOT / "examples" / "operations"
PROGRAM = "/opt/shardedstore/bin/shardedstore"
OTHER_OPTIONS = {"--dependency", "--array", "--signal", "--time", "--mem"}  # of sbatch


def files(*endings):
    return pytest.mark.parametrize(
        "file", [path for path in sorted(FOLDER.iterdir()) if path.name.endswith(endings)], ids=lambda path: path.name
    )


@files(".toml")
def test_job_files_are_read(file):
    jobs = read_job_file(file, environment={"SOURCES": "/data/sources", "RESULTS": "/data/results"})
    assert jobs.jobs
    check_cluster(jobs.cluster)


@files(".yaml")
def test_kubernetes_takes_the_manifests(file):
    for document in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@files(".sbatch")
def test_the_shell_takes_the_scripts(file):
    subprocess.run(["bash", "-n", file], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    for name in ("shardedstore.service", "shardedstore.timer"):
        (tmp_path / name).write_text((FOLDER / name).read_text().replace(PROGRAM, sys.executable))
    units = [tmp_path / "shardedstore.service", tmp_path / "shardedstore.timer"]
    checked = subprocess.run(["systemd-analyze", "verify", *units], check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_cron_takes_the_line():
    lines = [line for line in (FOLDER / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    (entry,) = [line for line in lines if not re.match(r"[A-Z]+=", line)]
    assert re.match(r"(?:[\d*/,-]+ ){5}/", entry)
    assert "%" not in entry  # cron ends the command there


@files("crontab", ".service", ".sbatch", ".yaml")
def test_options_of_commands_exist(file):
    text = "\n".join(line.partition("#")[0] for line in file.read_text().splitlines() if not line.startswith("#SBATCH"))
    known = set(
        re.findall(r"--[a-z-]+", "".join(CliRunner().invoke(main, [name, "--help"]).output for name in main.commands))
    )
    assert set(re.findall(r"--[a-z-]+", text)) - known - OTHER_OPTIONS == set()
    for command in re.findall(r"shardedstore (run|finalise|convert|verify)\b", text):
        assert command in main.commands
