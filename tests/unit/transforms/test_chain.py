"""Valid chains, and the identity of chains."""

import functools
import subprocess
import sys
from dataclasses import dataclass, replace

import helpers_jobs
import numpy as np
import pytest
from helpers_jobs import Fail, Seen, Slow, copied, environment, unchanged

from shardedstore import ChainError, ShardedStore, Step, step
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.transforms import ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.transforms.base.sink import FunctionSink, Tally
from shardedstore.zarr.grid import Blocks, ChunkKeys

ZIP = ToZip("out")


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([], r"given no transform: end the chain with a sink, such as ToZip\(url\)"),
        ([ToZip], r"ToZip is a class: make an instance, like ToZip\(\.\.\.\)"),
        ([Slow, ZIP], "Slow is a class"),
        ([Slow(1)], "the chain Slow has no sink"),
        ([Slow(1), Seen("x")], "the chain Slow, Seen has no sink"),
        ([ZIP, ZIP], "the chain ToZip, ToZip must have one sink, and it must come last"),
        ([ZIP, Slow(1)], "the chain ToZip, Slow must have one sink, and it must come last"),
        ([unchanged, ZIP], r"is neither a step nor a sink: wrap a generator function of entries with step\(\.\.\.\)"),
        ([copied, copied], "is neither a step nor a sink"),
        (["out"], "'out' is neither a step nor a sink"),
        ([None], "None is neither a step nor a sink"),
        ([[ZIP]], "is neither a step nor a sink"),
    ],
)
def test_bad_chains_are_refused_before_anything_is_written(tmp_path, chain, message):
    source = helpers_jobs.cube_at(tmp_path / "source.zarr")
    with pytest.raises(ChainError, match=message):
        ShardedStore.partition(source).map_shards(*chain)
    assert list(tmp_path.iterdir()) == [source]


def test_a_chain_is_its_steps_and_its_sink():
    chain = parse_chain([Slow(1), Seen("x"), ZIP])
    assert chain == ((Slow(1), Seen("x")), ZIP)
    assert chain.name == "ToZip"


def test_a_function_alone_is_a_chain():
    chain = parse_chain([copied])
    assert chain == ((), FunctionSink(copied))
    assert chain.name == "copied"


def test_shards_are_named_by_path_and_block():
    blocks = Blocks((4, 4), (2, 2), ChunkKeys("default", "/"))
    assert Shard("a/b", blocks, (0, 1)).name == "a/b[0/1]"
    assert Shard("a/b").name == "a/b"
    assert Shard("", blocks, (0, 1)).name == "[0/1]"
    assert Shard("", is_base=True).name == "(base)"


def token(*chain):
    return fingerprint(parse_chain(chain))


def test_the_fingerprint_is_the_same_in_every_process():
    chains = (Slow(0.5), Fail("a"), ZIP), (step(unchanged, name="unchanged", version="1"), ZIP), (copied,)
    code = (
        "from tests.unit.transforms.test_chain import *\n"
        "for chain in ((Slow(0.5), Fail('a'), ZIP), (step(unchanged, name='unchanged', version='1'), ZIP), (copied,)):\n"
        "    print(token(*chain))"
    )
    for seed in "1", "2":
        env = {**environment(), "PYTHONHASHSEED": seed}
        ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert ran.stdout.split() == [token(*chain) for chain in chains]


def test_where_the_result_stands_is_no_part_of_the_fingerprint():
    assert token(ZIP) == token(replace(ZIP, url="/elsewhere"))


@dataclass(frozen=True)
class Newer(Slow):
    version = "2"


class Scale(Step):
    """Not a dataclass, so that two instances can't be distinguished."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, entries, shard):
        return entries


class Plain(Step):
    """Not a dataclass either, but all instances are equal."""

    def __call__(self, entries, shard):
        return entries


@dataclass(frozen=True)
class Holder(Step):
    held: object

    def __call__(self, entries, shard):
        return entries

    def function(self, store, path, index):
        return store


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Slow(1), ZIP), (Slow(2), ZIP)),
        ((Slow(1), ZIP), (ZIP,)),
        ((Slow(1), ZIP), (Newer(1), ZIP)),
        ((Slow(1), Seen("x"), ZIP), (Seen("x"), Slow(1), ZIP)),
        ((ZIP,), (replace(ZIP, zip64=True),)),
        ((ZIP,), (replace(ZIP, name="{path}-{block}.zip"),)),
        ((step(unchanged, name="a", version="1"), ZIP), (step(unchanged, name="a", version="2"), ZIP)),
        ((step(unchanged, name="a", version="1"), ZIP), (step(unchanged, name="b", version="1"), ZIP)),
        ((Holder("1"), ZIP), (Holder(1), ZIP)),
    ],
)
def test_what_changes_the_bytes_changes_the_fingerprint(one, other):
    assert None is not token(*one) != token(*other) is not None


@pytest.mark.parametrize(
    "chain",
    [
        (lambda store, path, index: store,),
        (functools.partial(copied),),
        (Holder(1).function,),
        (step(unchanged), ZIP),
        (step(unchanged, name="a"), ZIP),
        (step(unchanged, version="1"), ZIP),
        (Holder(object()), ZIP),
        (Holder(unchanged), ZIP),
        (Scale(2), ZIP),
        (Holder(np.arange(5000)), ZIP),
    ],
)
def test_what_has_no_stable_name_has_no_fingerprint(chain):
    assert token(*chain) is None


def test_a_step_without_options_has_a_fingerprint():
    assert token(Plain(), ZIP) is not None


def test_a_function_inside_another_has_no_fingerprint():
    def inner(store, path, index):
        return store

    assert token(inner) is None


@functools.wraps(copied)
def wrapped(store, path, index):
    return store


def test_a_function_in_another_s_clothes_has_no_fingerprint():
    """Its name leads to another function, so that it can't be identified."""
    assert token(wrapped) is None


def test_a_tally_digests_keys_sizes_and_sums():
    def digest(*entries):
        tally = Tally()
        for entry in entries:
            tally.add(*entry)
        return tally.written(9).digest

    one = ("a", 1, 2)
    assert digest(one) == digest(one)
    assert (
        len({digest(), digest(one), digest(one, one), digest(("b", 1, 2)), digest(("a", 2, 2)), digest(("a", 1, 3))})
        == 6
    )
