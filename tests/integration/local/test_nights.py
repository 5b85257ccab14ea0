"""Two weeks of nightly runs, as examples/nights.py plays them, for three datasets."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

NIGHTS = ROOT / "examples" / "nights.py"
DATASETS = 3  # a folder of zips, one ordinary Zarr, and a source on a web server

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.mark.nightly
def test_all_nights_go_as_expected(tmp_path):
    command = [sys.executable, NIGHTS, "--folder", tmp_path / "nights", "--datasets", str(DATASETS)]
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 15
    assert lines[-1].startswith("14 nights went as expected")
