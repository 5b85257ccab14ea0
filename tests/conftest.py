"""Shared fixtures; modules beside this file can be imported by name, and servers start once for each session."""

import gc
import os
import sys
from collections import defaultdict
from itertools import count
from pathlib import Path

# These diagnostics take 7 % of a processor in a cluster that waits. Clusters in subprocesses of tests read the variables, too.
os.environ["DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL"] = "2s"
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"

import dask
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

import servers
from fuzz import TIMES, examples, some

from shardedstore.storage.grants import revoke

# Slow machines must not fail tests, and runs are deterministic, so that failures can be repeated.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=examples(40))
settings.load_profile("default")

for variable in ("AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):  # settings of this machine
    os.environ.pop(variable, None)

collect_ignore = ["data"]  # its generator needs zarr 2

MARKED_BY_FIXTURE = {"s3_server": "s3", "azure_server": "azure", "worker_processes": "cluster"}
FOLDERS = (f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{number}" for number in count())

# The objects of collected tests live to the end. Looking at them in each collection of garbage takes a tenth of the time of tests.
gc.set_threshold(100_000, 20, 100)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--azure", action="store_true", help="run the tests on Azurite too, which npm must have installed")
    parser.addoption(
        "--cases", type=int, default=10**6, metavar="N", help="run at most this number of cases of each test"
    )
    parser.addoption("--pictures", type=Path, metavar="FOLDER", help="save pictures of all HTML views in this folder")


def pytest_collection_modifyitems(config, items):
    for item in items:
        for fixture, marker in MARKED_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    if not config.getoption("--azure"):
        leave_out(config, items, {item for item in items if item.get_closest_marker("azure")})
    leave_out(config, items, beyond_few(items, config.getoption("--cases")) | of_night(items))


def leave_out(config, items, unwanted):
    config.hook.pytest_deselected(items=[item for item in items if item in unwanted])
    items[:] = [item for item in items if item not in unwanted]


def beyond_few(items, most):
    """Return the cases of tests that only ``make test-all`` runs, by their marker `few` or the option ``--cases``."""
    tables = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("few")
        few = min(most, marker.args[0] if marker else most)
        tables[item.parent, getattr(item, "originalname", item.name), few].append(item)
    return {item for (_, _, few), cases in tables.items() for item in set(cases) - set(some(few, cases))}


def of_night(items):
    """Return the tests with the marker `nightly`, which only ``make test-all`` runs."""
    return {item for item in items if TIMES == 1 and item.get_closest_marker("nightly")}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    with servers.shared(of_session(tmp_path_factory, "seaweedfs"), servers.seaweedfs) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory):
    with servers.shared(of_session(tmp_path_factory, "azurite"), servers.azurite) as server:
        yield server


def of_session(tmp_path_factory, name):
    """Return a folder that all processes of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name


@pytest.fixture(scope="session")
def worker_processes():
    """A Dask cluster of two processes with a thread each, for all tests that end with their workers alive."""
    from distributed import LocalCluster

    with servers.forked_workers():
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with cluster:
        yield cluster


@pytest.fixture
def workers(worker_processes):
    """A client of `worker_processes`, which Dask uses by default."""
    from distributed import Client

    with dask.config.set(scheduler=None), Client(worker_processes) as client:
        yield client


@pytest.fixture
def told(caplog):
    """A function that returns the messages that shardedstore logged, without those of its libraries."""

    def messages():
        of_package = (record for record in caplog.records if record.name.split(".")[0] == "shardedstore")
        return [record.getMessage() for record in of_package]

    return messages


@pytest.fixture
def use_environment(monkeypatch):
    """A function that sets environment variables of object stores, and removes all others of them."""

    def use(environment):
        for name in os.environ:
            if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def no_credentials():
    """Forget earlier credentials of this process, so that it holds only those of the test."""
    revoke("")


@pytest.fixture
def unique():
    """A name that no other test uses, as the processes share their servers."""
    return next(FOLDERS)


@pytest.fixture
def bucket(s3_server, use_environment, unique):
    """An empty folder of a bucket: its URL, with credentials in the environment, and a client."""
    use_environment(s3_server.environment())
    return s3_server.folder("tests", unique)


@pytest.fixture
def container(azure_server, use_environment, unique):
    """An empty folder of a container in Azure: its URL, with credentials in the environment, and a client."""
    use_environment(azure_server.environment())
    return azure_server.folder("tests", unique)
