"""The options of clusters: those that exclude each other, and classes of job files."""

import dask
import pytest
from click.testing import CliRunner
from paths import ROOT

from shardedstore import UsageError
from shardedstore.cli.cluster import check_cluster, find_address, local_workers
from shardedstore.cli.cluster_classes import CLASSES, start_cluster
from shardedstore.cli.main import main
from shardedstore.errors import ClusterError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.options import make_spec

SLURM = "dask_jobqueue.SLURMCluster"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheduler": "tcp://a:1", "scheduler_file": "f"}, "--scheduler and --scheduler-file exclude each other"),
        ({"scheduler": "tcp://a:1", "workers": 2}, "--workers and --scheduler exclude each other"),
        ({"scheduler_file": "f", "threads": 2}, "--threads and --scheduler-file exclude each other"),
        ({"scheduler": "tcp://a:1", "adapt": {"maximum": 2}}, "adapt and --scheduler exclude each other"),
        ({"scheduler": "tcp://a:1", "class": SLURM}, "--scheduler and class exclude each other"),
        ({"class": SLURM, "workers": 1, "threads": 2}, "threads is for workers on this machine"),
        ({"class": SLURM}, r"starts no workers by itself: add workers = N or adapt = \{maximum = N\}"),
        ({"options": {"cores": 1}}, "need a class"),
        ({"adapt": {"minimum": 3, "maximum": 2}}, "minimum 3 above its maximum 2"),
        ({"tls": ["a", "b", "c"]}, "the file 'a' of --tls is not there"),
        ({"adapt": {"minimum": 3}}, "maximum"),
        ({"workers": 0}, "workers"),
    ],
)
def test_options_that_exclude_each_other(values, message):
    with pytest.raises(UsageError, match=message):
        check_cluster(make_spec(ClusterSpec, values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class": "os.system", "workers": 1}, "'os.system' is not known"),
        ({"class": "dask_jobqueue.SlurmCluster", "workers": 1}, "is not known: use one of dask_jobqueue.HTC"),
        ({"class": "dask_gateway.GatewayCluster", "workers": 1}, "pip install dask-gateway"),
        (
            {"class": "distributed.LocalCluster", "workers": 1, "options": {"cores": 2}},
            "can't start with these options",
        ),
    ],
)
def test_only_classes_of_the_table_start_a_cluster(values, message):
    with pytest.raises(UsageError, match=message):
        start_cluster(make_spec(ClusterSpec, values))


def test_the_page_has_the_classes():
    page = (ROOT / "docs" / "clusters.md").read_text()
    assert [name for name in CLASSES if f"`{name}`" not in page] == []


def test_a_scheduler_is_found_in_a_file_and_in_dasks_configuration(tmp_path):
    (tmp_path / "scheduler.json").write_text('{"address": "tcp://10.0.0.1:8786"}')
    assert find_address(ClusterSpec(scheduler_file=str(tmp_path / "scheduler.json"))) == "tcp://10.0.0.1:8786"
    with dask.config.set({"scheduler-address": "tcp://10.0.0.2:8786"}):
        assert find_address(ClusterSpec()) == "tcp://10.0.0.2:8786"
        assert find_address(ClusterSpec(workers=2)) is None
    assert find_address(ClusterSpec()) is None


def test_a_scheduler_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("shardedstore.cli.cluster.CONNECT_SECONDS", 0)
    with pytest.raises(ClusterError, match=r"the scheduler file .* is not there"):
        find_address(ClusterSpec(scheduler_file=str(tmp_path / "scheduler.json")))
    (tmp_path / "scheduler.json").write_text("{")
    with pytest.raises(UsageError, match="is no scheduler file"):
        find_address(ClusterSpec(scheduler_file=str(tmp_path / "scheduler.json")))


def test_the_number_of_local_workers():
    assert 1 <= local_workers(10**6) <= local_workers(1)


def test_tls_of_the_command_line(tmp_path):
    ran = CliRunner().invoke(main, ["convert", "a.zarr", str(tmp_path), "--to", "zip", "--tls", "ca.pem,cert.pem"])
    assert ran.exit_code == 2
    assert "'ca.pem,cert.pem' is not CA,CERT,KEY" in ran.stderr
