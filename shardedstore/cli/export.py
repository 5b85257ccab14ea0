"""``shardedstore export``."""

from __future__ import annotations

import click

from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.jobfiles.open import open_any
from shardedstore.storage.urls import normalize
from shardedstore.text import count

FORMATS = ("kerchunk", "kerchunk-parquet", "icechunk", "tensorstore")


@click.command()
@click.argument("what", metavar="RESULT")
@click.argument("destination")
@click.option("--to", "kind", required=True, type=click.Choice(FORMATS), help="The format of the references.")
@click.option("--branch", default="main", show_default=True, help="The branch of an Icechunk repository.")
@storage_params("RESULT", "source-")
@storage_params("DESTINATION")
def export(
    what: str,
    destination: str,
    *,
    kind: str,
    branch: str,
    source_storage: tuple[str, ...],
    source_profile: str | None,
    storage: tuple[str, ...],
    profile: str | None,
) -> None:
    """Write references to the chunks of a result.

    Readers without shardedstore open the references as one Zarr. No chunk is read or copied. RESULT is the folder of a job, a config or a Zarr. DESTINATION is a JSON file for kerchunk,
    a folder for kerchunk-parquet (Zarr v2 only), a repository for icechunk (Zarr v3 only), which is made if there is none, and a folder of JSON specs for tensorstore, one for each array.

    \b
    Examples:
      shardedstore export era5-zips era5.json --to kerchunk
      shardedstore export s3://bucket/era5-zips s3://bucket/era5-icechunk --to icechunk
    """  # noqa: D301 (click reads the backspace)
    with user_errors(what, destination):
        store, _ = open_any(what, parse_side("source", what, source_storage, source_profile))
        options = parse_side("destination", destination, storage, profile)
        if kind == "icechunk":
            from shardedstore.export.icechunk import create_repository
            from shardedstore.stores.icechunk import quiet_icechunk

            quiet_icechunk()
            number = store.to_icechunk(create_repository(destination, store, options), branch=branch)
        elif kind == "tensorstore":
            number = len(store.to_tensorstore(destination, storage_options=options))
        else:
            number = store.to_kerchunk(destination, parquet=kind == "kerchunk-parquet", storage_options=options)
        tell(f"{count(number, 'spec' if kind == 'tensorstore' else 'reference')} written")
        tell(normalize(destination))
