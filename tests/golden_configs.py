"""The expected store of each golden file: files are never changed, and new features get new files."""

from pathlib import Path

from shardedstore.storage.options import Options
from shardedstore.stores.locations import (
    BlockOf,
    Config,
    Directory,
    Group,
    Mount,
    Own,
    PartOf,
    Squeezed,
    VeiledOf,
    ViewOf,
    Zip,
)
from shardedstore.stores.members import Members
from shardedstore.zarr.grid import Blocks, ChunkKeys

FOLDER = Path(__file__).parent / "data" / "config"
OUT = "/data/out"  # assumed place of the files
CLOUD = "s3://bucket/out"
MINE = Options(endpoint="https://objects.example.org", region="eu-1")  # options of the latter

TIME = Blocks((40, 3, 2), (4,), ChunkKeys("default", "/"))
PLANES = Blocks((40, 3, 2), (4, 2), ChunkKeys("default", "/"))
V2 = Blocks((9, 5), (3,), ChunkKeys("v2", "."))
ERA5 = Directory("s3://era5/cube.zarr", Options(region="us-east-1", anonymous=True))
FARM = Directory(
    "s3://bucket/a%20b",
    Options(endpoint="http://127.0.0.1:9000", region="us-east-1", allow_http=True, virtual_hosted_style_request=False),
)

GOLDEN = {
    "v1-minimal": Config(Directory(f"{OUT}/a.zarr")),
    "v1-result": Config(
        Zip(f"{OUT}/__base__.zarr.zip"),
        {
            "simulation/coarse": Mount(Zip(f"{OUT}/simulation/coarse.zarr.zip")),
            "simulation/fine": Mount(ViewOf(Directory("s3://bucket/era5.zarr"), "simulation/fine")),
            "temperature": Mount(
                Zip(f"{OUT}/temperature/{{block}}.zarr.zip"), PLANES, {"9/1": Directory(f"{OUT}/temperature/edge.zarr")}
            ),
        },
        Directory(f"{OUT}/__consolidated__.zarr"),
    ),
    "v1-zips": Config(
        Zip(f"{OUT}/__base__.zarr.zip"),
        {
            "simulation/coarse": Mount(Zip(f"{OUT}/simulation/coarse.zarr.zip")),
            "temperature": Mount(Zip(f"{OUT}/temperature/{{block}}.zarr.zip"), TIME),
        },
    ),
    "v1-absolute": Config(Zip("/mnt/a.zip"), {"t": Mount(Zip(f"{OUT}/t.zip")), "u": Mount(Directory("/mnt/Ünï côde"))}),
    "v1-objects": Config(
        Directory("gs://bucket/a.zarr"),
        {
            "azure": Mount(Zip("az://container/b.zip", Options(account_name="mine"))),
            "emulated": Mount(Directory("az://container/c", Options(use_emulator=True))),
            "farm": Mount(FARM),
            "open": Mount(ERA5),
            "paid": Mount(Zip("s3://paid/d.zip", Options(request_payer=True, virtual_hosted_style_request=True))),
            "web": Mount(Directory("https://example.org/e.zarr")),
        },
    ),
    "v1-views": Config(
        PartOf(ERA5, without=("temperature/old",)),
        {
            "simulation": Mount(ViewOf(ViewOf(ERA5, "runs"), "last")),
            "some": Mount(PartOf(Zip(f"{OUT}/all.zip"), ("a", "g/b"), ("g/b/c",))),
            "temperature": Mount(ViewOf(ERA5, "temperature"), TIME),
        },
    ),
    "v1-stored": Config(
        Zip(f"{OUT}/__base__.zarr.zip"),
        {
            "a": Mount(
                Zip(f"{OUT}/a/{{block}}.zarr.zip"),
                Blocks((40, 3, 2), (4, 2), ChunkKeys("default", "/"), ((0, 1), (7, 10), (19, 20))),
                {"4/1": Directory(f"{OUT}/a/edge.zarr")},
            ),
            "b": Mount(Directory(f"{OUT}/b/{{block}}.zarr"), Blocks((9, 5), (3,), ChunkKeys("v2", "."), ((1, 2),))),
        },
    ),
    "v1-blocks": Config(
        Directory(f"{OUT}/base.zarr"),
        {
            "grown": Mount(
                Zip(f"{OUT}/t/{{block}}.zip"),
                TIME,
                {
                    "3": BlockOf(ERA5, "temperature", TIME, (3,)),
                    "9": BlockOf(ViewOf(ERA5, "old"), "", PLANES, (9, 1)),
                },
            ),
        },
    ),
    "v1-keys": Config(
        Zip(f"{OUT}/base.zip"),
        {
            f"{name}{separator}".replace("/", "-"): Mount(
                Directory(f"{OUT}/{name}/{{block}}"), Blocks((6, 4), (2, 3), ChunkKeys(name, separator))
            )
            for name in ("default", "v2")
            for separator in (".", "/")
        },
    ),
    "v1-root-array": Config(Directory(f"{OUT}/a.zarr"), {"": Mount(Zip(f"{OUT}/{{block}}.zip"), V2)}),
    "v1-nested": Config(
        Config(Zip(f"{OUT}/inner/base.zip"), {"a/b": Mount(Zip(f"{OUT}/inner/b.zip"))}),
        {
            "blocks": Mount(Config(Zip(f"{OUT}/blocks/{{block}}/base.zip"), {"x": Mount(ERA5)}), TIME),
            "deep": Mount(ViewOf(Config(Config(ERA5), {}, Zip(f"{OUT}/c.zip")), "g")),
        },
    ),
    "v1-group": Config(
        Group(2, {"title": "cells", "nested": {"a": [1, 2.5, None, True, "ü"]}}, ("wells", "wells/empty")),
        {"wells/a": Mount(Group()), "wells/b": Mount(Group(3, {"x": 1}))},
    ),
    "v1-members": Config(
        Group(),
        {
            "cells": Mount(
                ViewOf(Zip(f"{OUT}/cells/{{block}}.zip"), "{name}"),
                members=Members(("a", "b", "c d", "ü"), together=2),
                exceptions={"1": ViewOf(Zip(f"{OUT}/late.zip"), "{name}")},
            ),
            "wells": Mount(Directory("/mnt/wells/{name}.zarr"), members=Members(("A/1", "A/2", "B/1"), parts=True)),
        },
    ),
    "v1-own": Config(
        Own("tar", f"{OUT}/base.tar"),
        {
            "far": Mount(
                Own(
                    "example.kv-2",
                    "s3://bucket/store",
                    {"table": "a", "depth": 3, "scale": 0.5, "checked": True, "none": None},
                    Options(anonymous=True),
                )
            ),
            "t": Mount(Own("tar", f"{OUT}/t/{{block}}.tar", {"prefix": "x"}), TIME),
        },
    ),
    "v1-veiled": Config(
        VeiledOf(Zip(f"{OUT}/__base__.zarr.zip"), ("simulation/u", "temperature")),
        {"temperature": Mount(Zip(f"{OUT}/temperature/{{block}}.zarr.zip"), TIME)},
        VeiledOf(Directory(f"{OUT}/__consolidated__.zarr"), ("",)),
    ),
    "v1-squeezed": Config(
        Directory(f"{OUT}/base.zarr"),
        {
            "old": Mount(
                Directory(f"{OUT}/0.zarr"),
                V2,
                {
                    str(i): Squeezed(Directory(f"{OUT}/{i}.zarr"), BlockOf(Directory(f"{OUT}/base.zarr"), "old", V2, (i,)))
                    for i in range(3)
                },
            )
        },
    ),
    "v1-defaults-written-out": Config(Directory(f"{OUT}/a.zarr"), {"t": Mount(Zip(f"{OUT}/t.zip"))}),
}  # fmt: skip
