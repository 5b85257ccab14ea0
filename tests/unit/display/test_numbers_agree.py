"""The same job has the same numbers in the bar, the lines, the log, the status, the report and the result of a command."""

import json
import re

import dask
import pytest
from click.testing import CliRunner
from helpers_jobs import Fail, blocks_at

from shardedstore import ShardsFailed, cli, job_status
from shardedstore.abc import JobLog
from shardedstore.callbacks.bar import ProgressBar
from shardedstore.callbacks.lines import ProgressLines
from shardedstore.callbacks.outcome import KeepEnd
from shardedstore.transforms import ToZip

BLOCKS = 9


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", BLOCKS)


@pytest.mark.parametrize("case", ["done", "failed", "resumed"])
def test_all_views_of_a_job_agree(store, tmp_path, capsys, case):
    out, log, end = tmp_path / "out", tmp_path / "log", KeepEnd()
    callbacks = [JobLog(log), ProgressLines(), ProgressBar(), end]
    with dask.config.set(scheduler="sync"):
        if case == "resumed":
            store.plan(ToZip(out)).run_slice(1, 2)
        if case == "failed":
            with pytest.raises(ShardsFailed):
                store.map_shards(Fail("a[2]"), ToZip(out), retries=0, callbacks=callbacks)
        else:
            store.map_shards(ToZip(out), callbacks=callbacks)
    shown = re.findall(r"(\d+) of 10 shards(.*)", capsys.readouterr().err)
    last = json.loads(log.read_text().splitlines()[-1])["progress"]
    report = json.loads((out / ".shardedstore/report-1.json").read_text())
    status = job_status(out)
    total, failed = BLOCKS + 1, int(case == "failed")
    assert {int(ended) for ended, _ in shown[-2:]} == {total}
    assert any("1 failed" in text for _, text in shown[-2:]) == bool(failed)
    assert (last["total"], last["failed"], last["done"] + last["skipped"]) == (total, failed, total - failed)
    assert (report["total"], report.get("failed", 0)) == (total, failed)
    assert (report["done"], report.get("skipped", 0)) == (last["done"], last["skipped"])
    assert (status.total, status.failed, status.done, status.left) == (total, failed, total - failed, 0)
    assert end.end.progress.nbytes == last["nbytes"]
    told = json.loads(CliRunner().invoke(cli.main, ["status", str(out), "--json"]).stdout)
    assert (told["done"], told["failed"]) == (status.done, status.failed)
