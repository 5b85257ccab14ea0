"""Every HTML view in a headless Chromium, wide and narrow, in light and in dark, of ten shards and of ten thousand.

All views are on one page. ``--pictures FOLDER`` saves a picture of each for a person to look at.
"""

import os
from typing import ClassVar

import dask
import pytest
import zarr
from browser import PROGRAM, SCREEN, VIEW, chromium

from shardedstore import ShardedStore, ShardError, ShardsFailed, Summary, check
from shardedstore.abc import JobEnd, Progress, Running, ShardEnd, TaskEnd
from shardedstore.callbacks.report import ReportWriter
from shardedstore.display.html import Html, html_page
from shardedstore.display.progress_html import progress_html
from shardedstore.transforms import Recompress, ToZip

pytestmark = [
    pytest.mark.pictures,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine"),
]

WIDTHS = {"wide": 1280, "narrow": 480}
SCHEMES = ("light", "dark")
SCREENS = {"report": 3.0, "failures": 1.5, "error": 1.5}  # the most for a view in a wide window; 1.25 for all others
CONTRAST = 4.5  # WCAG AA
SIZES = {"10": (3, 3), "10000": (100, 100)}  # arrays, and blocks of each; with the base as a shard
WORKERS = 40
LONG = "surface_downwelling_shortwave_flux_in_air_assuming_clear_sky"
CAUSES = (
    (OSError, 5, "Input/output error"),
    (ValueError, "cannot reshape array of size 1036800 into shape (4, 180, 360)"),
)


class LinkToZip(ToZip):
    """Writes a zip for the first block of each array, and links it for the others, which is quick."""

    made: ClassVar = {}

    def write(self, entries, shard, url):
        first = self.url, shard.path
        if first not in self.made:
            self.made[first] = url, super().write(entries, shard, url)
            return self.made[first][1]
        other, written = self.made[first]
        os.link(other, url)
        return written


class LinkOrFail(LinkToZip):
    """Fails for two shards of nine."""

    def write(self, entries, shard, url):
        if shard.number % 9 in (2, 3):
            error, *values = CAUSES[shard.number % 2]
            raise error(*values)
        return super().write(entries, shard, url)


def source_at(folder, arrays, blocks):
    """Write groups of arrays, of which one has chunks."""
    root = zarr.create_group(folder)
    for number in range(arrays):
        name = f"model/ensemble_{number % 7}/{LONG}_{number}" if number % 3 else f"t{number}"
        root.create_array(
            name,
            shape=(blocks * 4, 180, 360),
            chunks=(4, 90, 180),
            dtype="f4",
            dimension_names=("time", "lat", "lon"),
        )
    root["t0"][:4] = 1.0


def running(total):
    size = total << 30
    return Progress(
        total=total,
        done=total // 2,
        skipped=total // 10,
        failed=total // 10,
        nbytes=size // 3,
        decoded_nbytes=size // 2,
        total_decoded_nbytes=size,
        retries=12,
        throttled=345,
        workers=8,
        running=16,
        seconds=3725.0,
        rate=1.2e9,
        seconds_left=5000.0,
        oldest=Running(f"model/ensemble_3/{LONG}[5]", 75.0),
    )


def failures_of(count):
    """Return failures of ten causes."""
    return tuple(
        ShardError(
            f"model/ensemble_1/{LONG}[{i}]",
            f"OSError: cause {i % 10}",
            code="io",
            path=f"model/ensemble_1/{LONG}",
            key=f"model/ensemble_1/{LONG}/c/{i}",
            traceback="line\n" * 20,
        )
        for i in range(count)
    )


def report_of(plan, file, total):
    """Replay the events of a job on many workers, and return its report."""
    writer = ReportWriter(file)
    writer.on_job_start(plan)
    each = -(-total // WORKERS)
    failures = failures_of(9)
    for worker in range(WORKERS):
        ends = tuple(
            ShardEnd(
                f"t0[{i}]",
                i % plan.shard_count,
                begun=1e9 + i,
                seconds=0.5,
                attempts=1 + i % 2,
                retried="busy",
                nbytes=i << 16,
            )
            for i in range(worker * each, min(total, (worker + 1) * each))
        )
        task = Summary(done=len(ends), seconds=5.0, worker=f"node{worker}.cluster.example.org:4711", shards=ends)
        writer.on_task_end(TaskEnd(task, Progress(total=total)))
    writer.on_job_end(
        JobEnd(Summary(done=total, failures=failures), running(total), ShardsFailed("some failed", failures))
    )
    return writer.report


def views_before(folder, store, plan):
    """Yield the views of a source, and of the plan of a job."""
    yield "partition", store
    yield "info", store.info(count=True)
    yield "suggestion", store.suggest(size="4 MiB", access=[{"time": "series"}, {"time": 1}])
    yield "comparison", store.compare_codecs({"zstd": "zstd", "nothing": None}, arrays="t0", sample="1 MiB")
    yield "plan", plan
    chunks = sorted((folder / "source.zarr/t0/c").rglob("0"))
    chunks[-1].write_bytes(chunks[-1].read_bytes()[:-9])
    yield "check", check(folder / "source.zarr")


def views_of_jobs(folder, store):
    """Run a job and one in which shards fail, and yield their views."""
    new = store.map_shards(LinkToZip(folder / "zips"))
    yield "result", new
    yield "summary", new.summary
    yield "records", new.records()
    yield "report", new.report()
    yield "verified", new.verify(level="exists")
    for zips in sorted((folder / "zips").rglob("*/1.zarr.zip")):
        zips.unlink()
    yield "damaged", new.verify(level="exists")
    with pytest.warns(UserWarning, match="failed"):
        unfinished = store.map_shards(LinkOrFail(folder / "failed"), on_error="partial", max_failures=10_000, retries=0)
    yield "unfinished", unfinished
    yield "unfinished summary", unfinished.summary
    yield "partial", unfinished.partial
    yield "unfinished records", unfinished.records()
    yield "unfinished report", unfinished.report()
    yield "error", ShardsFailed("some shards failed", unfinished.summary.failures)
    yield "unfinished, loaded", ShardedStore.load(folder / "failed", partial=True, allow=[folder])


def view(name, page):
    return Html(f'<section {VIEW}="{name}" style="margin:1em 0">{page}</section>')


@pytest.fixture(scope="module", params=SIZES)
def pages(request, tmp_path_factory):
    """The number of shards, a page of all views, and the page of a report."""
    folder = tmp_path_factory.mktemp(request.param)
    source_at(folder / "source.zarr", *SIZES[request.param])
    with dask.config.set(scheduler="sync"):
        store = ShardedStore.partition(folder / "source.zarr", {"**": {"time": 4}})
        plan = store.plan(Recompress("zstd"), ToZip(folder / "planned"))
        total = plan.shard_count
        views = {
            **dict(views_of_jobs(folder, store)),
            **dict(views_before(folder, store, plan)),
            "failures": ShardsFailed("many shards failed", failures_of(total)).failures,
            "report of a cluster": report_of(plan, folder / "cluster.html", total),
        }
        html = {name: one._repr_html_() for name, one in views.items()}
    for state, notes in (("running", ["t0[1]: OSError: no space left"]), ("done", []), ("failed", ["1 shard failed"])):
        html[f"progress {state}"] = progress_html("Recompress, ToZip to s3://bucket/zips", running(total), state, notes)
    page = html_page("views", *(view(name, one) for name, one in html.items()))
    return request.param, {"views": page, "report file": (folder / "cluster.html").read_text()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture(scope="module")
def pictures(request):
    """The folder of the pictures; None without the option."""
    folder = request.config.getoption("--pictures")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_views_fit_and_can_be_read(pages, browser, pictures, tmp_path):
    size, documents = pages
    faults = []
    for document, page in documents.items():
        file = tmp_path / f"{document}.html"
        file.write_text(page)
        browser.open(file)
        for width, pixels in WIDTHS.items():
            for scheme in SCHEMES:
                for name, looks in browser.look(pixels, scheme).items():
                    title = f"{name or document}, {size}, {width}, {scheme}"
                    faults += [f"{title}: {fault}" for fault in faults_of(name or document, looks, width)]
                    if pictures and (name or document != "views"):
                        browser.save(pictures / f"{title}.png".replace(", ", "-"), name)
        faults += [f"{document}, {size}: {error}" for error in browser.errors]
    assert not faults, "\n".join(faults)


def faults_of(name, looks, width):
    """Yield the faults of a view, or of a page."""
    screens = next((most for part, most in SCREENS.items() if part in name), 1.25) * (1 if width == "wide" else 2)
    if looks.overflow > 0:
        yield f"{looks.overflow} pixels wider than its place"
    if looks.outside:
        yield f"the text {looks.outside!r} leaves it sideways"
    if looks.scrolled and width == "wide":
        yield f"{looks.scrolled} pixels are seen only by scrolling sideways"
    if looks.height > screens * SCREEN and name != "views":
        yield f"{looks.height} pixels high, more than {screens} screens"
    if looks.contrast < CONTRAST:
        yield f"contrast {looks.contrast:.2f} of {looks.faintest!r}"
