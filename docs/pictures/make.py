"""Make the pictures of the README: the view of a divided Zarr in a notebook, by headless Chromium.

Run it with ``make pictures`` after the view has changed.
"""

import tempfile
from pathlib import Path

import zarr
from browser import chromium
from PIL import Image

from shardedstore import ShardedStore
from shardedstore.display.html import Html, html_page

HERE = Path(__file__).parent
WIDTH = 900  # pixels
MARGIN = 16  # pixels below
HOURS = 720  # in a shard
SHAPE = {"time": 8760, "lat": 721, "lon": 1440}
ARRAYS = ("t2m", "tp", "u10", "v10")


def source_at(folder: Path) -> Path:
    """Write a year of hourly weather with one chunk in each shard: the view needs no more."""
    root = zarr.create_group(folder / "era5.zarr")
    for name in ARRAYS:
        array = root.create_array(
            name, shape=tuple(SHAPE.values()), chunks=(24, 91, 180), dtype="f4", dimension_names=tuple(SHAPE)
        )
        for start in range(0, SHAPE["time"], HOURS):
            array[start, 0, 0] = 1
    return folder / "era5.zarr"


def main() -> None:
    """Write ``info-light.png`` and ``info-dark.png`` beside this file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ShardedStore.partition(source_at(folder), shards={"*": {"time": HOURS}})
        view = store.info()._repr_html_().replace(f"{folder}/", "")
        page = folder / "info.html"
        page.write_text(html_page("info", Html(view)).replace("<details", "<details open", 1))
        with chromium(folder / "chromium") as browser:
            for scheme in ("light", "dark"):
                picture = HERE / f"info-{scheme}.png"
                browser.open(page)
                browser.look(WIDTH, scheme)
                browser.save(picture)
                height = browser.evaluate("document.body.getBoundingClientRect().bottom") + MARGIN
                page_only = Image.open(picture).crop((0, 0, WIDTH, round(height)))
                page_only.quantize(128, method=Image.Quantize.FASTOCTREE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
