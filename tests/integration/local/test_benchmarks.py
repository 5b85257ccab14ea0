"""Smoke tests of the benchmarks on tiny data; their times are not checked."""

import subprocess
import sys

import pytest
from paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

S3 = pytest.mark.s3
TINY = ["--rounds", "1", "--shards", "2", "--chunks", "20"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "options", "lines"),
    [
        ("bench_zip", [*TINY, "--no-legacy"], ["shardedstore, bare tasks", "shardedstore on Dask"]),
        (
            "bench_recompress",
            [*TINY, "--large-chunks", "2"],
            ["shardedstore, one task", "bare codecs", "tensorstore", "dask.array"],
        ),
        ("bench_sharding", TINY, ["shardedstore, bare tasks", "shardedstore on Dask", "zarr ", "dask.array"]),
        ("bench_store", ["--rounds", "1"], ["a chunk of an array in 100 blocks ", "1,000,000 "]),
        (
            "bench_export",
            TINY[2:],
            ["Kerchunk JSON ", "Kerchunk Parquet ", "Icechunk ", "VirtualiZarr, Kerchunk JSON "],
        ),
        ("bench_scale", ["--shards", "2000", "--zips", "50"], ["plan of ", "a shard that nothing is done to "]),
        pytest.param(
            "bench_cloud",
            TINY,
            ["CopyTo, bare tasks", "CopyTo on Dask", "ToZip, bare tasks", "ToZip on Dask"],
            marks=S3,
        ),
        pytest.param(
            "bench_read",
            [*TINY, "--far-chunks", "4", "--delay", "0.01"],
            ["ShardedStore of zips ", "plain directory", "zarr's ZipStore ", "ShardedStore of zips on S3"],
            marks=S3,
        ),
        pytest.param(
            "bench_memory",
            ["--gib", "0.02", "--kinds", "ToZip", "CopyTo to S3", "ToShardingCodec"],
            ["ToZip ", "CopyTo to S3", "ToShardingCodec "],
            marks=S3,
        ),
    ],
)
def test_a_benchmark_measures(name, options, lines, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--workdir", tmp_path, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in lines:
        assert f"\n| {line}" in done.stdout, done.stdout
    left_out = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("not measured: ")]
    assert all(
        "is not installed" in why or "there is no program" in why or "this zarr has no" in why for why in left_out
    )
    assert list(tmp_path.iterdir()) == []
    if left_out:
        pytest.skip(f"all else was measured, but {'; '.join(left_out)}")
