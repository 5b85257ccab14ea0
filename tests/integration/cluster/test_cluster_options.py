"""Clusters of the command line: TLS, scheduler files, adaptive workers, and workers that can't do a job."""

import json
import logging
import ssl
import subprocess

import pytest
from distributed import Client, LocalCluster, Security
from helpers_jobs import cube_at, division

from shardedstore.cli.cluster import cluster_on_demand
from shardedstore.errors import UsageError
from shardedstore.jobfiles.cluster_spec import Adapt, ClusterSpec
from shardedstore.jobs.executors import worker_monitor, worker_packages
from shardedstore.transforms import ToZip

pytestmark = pytest.mark.cluster
QUIET = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    assert ssl.create_default_context(cafile=cert)
    return str(cert), str(cert), str(key)


def test_a_scheduler_file_with_tls(certificates, source, tmp_path):
    ca, cert, key = certificates
    security = Security(
        tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, tls_scheduler_cert=cert, tls_scheduler_key=key,
        tls_worker_cert=cert, tls_worker_key=key, require_encryption=True,
    )  # fmt: skip
    with LocalCluster(n_workers=1, processes=False, protocol="tls://", security=security, **QUIET) as local:
        (tmp_path / "scheduler.json").write_text(json.dumps({"address": local.scheduler_address}))
        spec = ClusterSpec(scheduler_file=str(tmp_path / "scheduler.json"), tls=certificates)
        with cluster_on_demand(spec, verbose=False):
            assert division(source).map_shards(ToZip(tmp_path / "out")).summary.done
        assert local.scheduler_address.startswith("tls://")
        with (
            pytest.raises(UsageError, match="give --tls CA,CERT,KEY"),
            cluster_on_demand(ClusterSpec(scheduler=local.scheduler_address), verbose=False),
        ):
            raise AssertionError("connected")


def test_adaptive_workers_of_a_class(source, tmp_path):
    options = {"processes": False, "n_workers": 0, **QUIET}
    spec = ClusterSpec(class_="distributed.LocalCluster", options=options, adapt=Adapt(minimum=0, maximum=2))
    with cluster_on_demand(spec, verbose=False):
        assert division(source).map_shards(ToZip(tmp_path / "out")).summary.done


@pytest.fixture(scope="module")
def client():
    # Dask pauses a worker whose process has more memory than its limit, and this one is in the process of the tests.
    with LocalCluster(n_workers=1, processes=False, memory_limit="4 GiB", **QUIET) as local, Client(local) as made:
        yield made


def test_little_memory_is_reported(client, caplog, told):
    worker_monitor.check_memory(client, 16 << 30)
    (message,) = told()
    assert message.startswith(
        "1 of 1 workers have little memory: 4.00 GiB for 1 thread, and a shard may take 16.00 GiB"
    )
    caplog.clear()
    worker_monitor.check_memory(client, 4 << 30)
    worker_monitor.check_memory(client, 0)
    assert not told()


def test_a_package_that_workers_lack(client):
    with pytest.raises(UsageError, match=r"1 of 1 workers lack a package \(.*No module named 'no_such'.*install it"):
        worker_monitor.check_workers(client, Imports("no_such"))


class Imports:
    def __init__(self, name):
        self.name = name

    def __call__(self):
        __import__(self.name)


@pytest.fixture
def answers(client):
    """The answers of workers about their versions, which a plugin of the scheduler changes."""

    def install(dask_scheduler, changes):
        broadcast = dask_scheduler.handlers["broadcast"]

        async def changed(**message):
            found = await broadcast(**message)
            if message["msg"]["op"] == "versions":
                for answer in found.values():
                    answer["packages"].update(changes)
            return found

        dask_scheduler.handlers["broadcast"] = changed
        dask_scheduler.extensions["before"] = broadcast

    def remove(dask_scheduler):
        dask_scheduler.handlers["broadcast"] = dask_scheduler.extensions.pop("before")

    yield lambda **changes: client.run_on_scheduler(install, changes=changes)
    client.run_on_scheduler(remove)


def test_another_version_of_shardedstore(client, answers):
    answers(shardedstore="0.1.0")
    with pytest.raises(
        UsageError, match=r"1 of 1 workers have shardedstore 0.1.0 \(.*\), and this process has .*: install the same"
    ):
        worker_packages.check_packages(client)


def test_another_version_of_a_library(client, answers, caplog):
    answers(zarr="3.0.0")
    with caplog.at_level(logging.WARNING):
        worker_packages.check_packages(client)
    assert "other versions of libraries than this process: zarr 3.0.0, here " in caplog.text


def test_equal_versions_are_silent(client, told):
    worker_packages.check_packages(client)
    assert not told()
