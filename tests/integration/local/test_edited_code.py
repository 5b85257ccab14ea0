"""An edited function under the same name: a job that resumes the old result warns."""

import json
import subprocess
import sys
import types

import dask
import numpy as np
import pytest
import zarr
from helpers_jobs import environment

from shardedstore import ShardedStore, step
from shardedstore.jobs.fingerprint import code_digests
from shardedstore.jobs.ledger import FOLDER
from shardedstore.transforms import MapChunks, ToZip
from shardedstore.transforms.base.chain import parse_chain

NOTICE = "the code of 'scale' has changed since an earlier run of this job"


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def function(source: str, name: str = "f", **names: object):
    """A function as in a cell of a notebook."""
    module = types.ModuleType("notebook")
    vars(module).update(names, np=np)
    exec(compile(source, "<cell>", "exec"), vars(module))
    return vars(module)[name]


def digest(found) -> str:
    (_, value) = code_digests(parse_chain([MapChunks(found, name="scale"), ToZip("out")])).values()
    return value


FIRST = "def f(data, offset):\n    return data * 2"
SAME = [
    "def f(data, offset):\n\n    # twice as much\n    return data * 2",
    "# moved\n\n\ndef f(data, offset):\n    return data * 2",
]
OTHERS = [
    "def f(data, offset):\n    return data * 3",
    "def f(data, offset):\n    return data * 2.0",
    "def f(data, offset):\n    return data + 2",
    "def f(data, offset):\n    return np.sqrt(data)",
    "def f(data, offset):\n    return np.square(data)",
    "def f(data, offset, by=2):\n    return data * by",
    "def f(data, offset, by=3):\n    return data * by",
    "def f(data, offset, *, by=3):\n    return data * by",
    "BY = 2\ndef f(data, offset):\n    return data * BY",
    "BY = 3\ndef f(data, offset):\n    return data * BY",
    "def g(x):\n    return x * 2\ndef f(data, offset):\n    return g(data)",
    "def g(x):\n    return x * 3\ndef f(data, offset):\n    return g(data)",
    "def make(by):\n    def f(data, offset):\n        return data * by\n    return f\nf = make(2)",
    "def make(by):\n    def f(data, offset):\n        return data * by\n    return f\nf = make(3)",
    "def f(data, offset):\n    return (lambda x: x * 2)(data)",
    "def f(data, offset):\n    return (lambda x: x * 3)(data)",
    "from functools import partial\ndef g(by, data, offset):\n    return data * by\nf = partial(g, 2)",
    "from functools import partial\ndef g(by, data, offset):\n    return data * by\nf = partial(g, 3)",
    "class F:\n    def __call__(self, data, offset):\n        return data * 2\nf = F()",
    "class F:\n    def __call__(self, data, offset):\n        return data * 3\nf = F()",
]


def test_what_is_other_code_and_what_is_not():
    digests = {source: digest(function(source)) for source in (FIRST, *OTHERS)}
    assert len(set(digests.values())) == len(digests)
    for source in SAME:
        assert digest(function(source)) == digests[FIRST]
    documented = 'def f(data, offset):\n    """{}"""\n    return data * 2'
    assert digest(function(documented.format("One."))) == digest(function(documented.format("Another.")))


def test_functions_that_call_each_other_have_a_digest():
    source = "def g(x):\n    return f(x, 0)\ndef f(data, offset):\n    return g(data) if offset else data"
    assert digest(function(source)) == digest(function(source))


def test_own_steps_have_one_and_ours_have_none():
    assert code_digests(parse_chain([ToZip("out")])).keys() == {"python"}
    one, other = (
        code_digests(parse_chain([step(function(source), name="scale", version="1"), ToZip("out")]))
        for source in ("def f(entries, shard):\n    yield 1", "def f(entries, shard):\n    yield 2")
    )
    assert one.keys() == other.keys() == {"python", "0 scale"}
    assert one != other


def test_it_is_the_same_in_every_process():
    code = (
        "from shardedstore.transforms.base.chain import parse_chain\n"
        "from shardedstore.jobs.fingerprint import code_digests\n"
        "from shardedstore.transforms import MapChunks, ToZip\n"
        "def f(data, offset, by={'a': 1}):\n"
        "    return data if str(data) in {'a', 'b', 'c'} else data * 2\n"
        "print(code_digests(parse_chain([MapChunks(f, name='scale'), ToZip('out')])))"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert ran[0] == ran[1]


@pytest.fixture
def store(tmp_path):
    zarr.create_group(tmp_path / "source.zarr").create_array("a", data=np.arange(4), chunks=(1,))
    return ShardedStore.partition(tmp_path / "source.zarr", {"a": (2,)})


def scaled(store, out, source, **options):
    return store.map_shards(MapChunks(function(source), name="scale", arrays="a"), ToZip(out), **options)


def texts(store):
    return [notice.text for notice in store.summary.notices]


def test_a_job_that_goes_on_with_other_code_says_so(store, tmp_path, caplog):
    out = tmp_path / "out"
    first = scaled(store, out, FIRST)
    assert texts(first) == texts(scaled(store, out, SAME[0])) == []
    for _ in range(2):
        second = scaled(store, out, OTHERS[0])
        (text,) = texts(second)
        assert text.startswith(NOTICE)
        assert "give it another name= or version=, with overwrite=True" in text
        assert second.summary.skipped == 3
    assert NOTICE in caplog.text
    renamed = store.map_shards(MapChunks(function(OTHERS[0]), name="scale-2", arrays="a"), ToZip(out), overwrite=True)
    assert texts(renamed) == []
    assert list(zarr.open_group(renamed, mode="r")["a"][:]) == [0, 3, 6, 9]


def test_what_was_taken_over_is_of_the_old_code(store, tmp_path):
    out = tmp_path / "out"
    scaled(store, out, FIRST)
    array = zarr.open_array(tmp_path / "source.zarr", path="a")
    array.resize((8,))
    array[4:] = 1
    grown = ShardedStore.partition(tmp_path / "source.zarr", {"a": (2,)})
    assert len(texts(scaled(grown, out, OTHERS[0]))) == 1
    assert len(texts(scaled(grown, out, OTHERS[0]))) == 1


@pytest.mark.parametrize("code", [None, {"python": "cpython 2.7", "0 scale": "another"}, {}])
def test_a_job_of_another_python_or_of_before_is_not_doubted(store, tmp_path, code):
    out = tmp_path / "out"
    scaled(store, out, FIRST)
    path = out / FOLDER / "job-1.json"
    document = json.loads(path.read_bytes())
    assert document.pop("code").keys() == {"python", "0 scale"}
    path.write_text(json.dumps(document if code is None else {**document, "code": code}))
    again = scaled(store, out, OTHERS[0])
    assert (texts(again), again.summary.skipped) == ([], 3)
