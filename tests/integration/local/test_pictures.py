"""Every HTML view in a headless Chromium, wide and narrow, in light and in dark, of few shards and of many.

``--pictures FOLDER`` saves pictures for a person to look at.
"""

import dask
import pytest
import zarr
from browser import PROGRAM, SCREEN, chromium
from helpers_jobs import Fail

from shardedstore import ShardedStore, ShardError, ShardsFailed, Summary
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
SCREENS = {"report": 4.5, "failures": 1.5}  # the most for a view, in a wide window; 1.25 for all others
CONTRAST = 4.5  # WCAG AA
SIZES = {"few": (3, 3), "many": (100, 100)}  # arrays, and blocks of each
WORKERS = 40
LONG = "surface_downwelling_shortwave_flux_in_air_assuming_clear_sky"


def source_at(folder, arrays, blocks):
    """Write groups of arrays without chunks, so that their shards are small and quick."""
    root = zarr.create_group(folder)
    for number in range(arrays):
        name = f"model/ensemble_{number % 7}/{LONG}_{number}" if number % 3 else f"t{number}"
        root.create_array(name, shape=(blocks * 4,), chunks=(2,), dtype="f4", dimension_names=("time",))
    root["t0"][:] = 1.0


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
                nbytes=i,
            )
            for i in range(worker * each, min(total, (worker + 1) * each))
        )
        task = Summary(done=len(ends), seconds=5.0, worker=f"node{worker}.cluster.example.org:4711", shards=ends)
        writer.on_task_end(TaskEnd(task, Progress(total=total)))
    writer.on_job_end(
        JobEnd(Summary(done=total, failures=failures), running(total), ShardsFailed("some failed", failures))
    )
    return writer.report


def views_of_jobs(folder, store, failing):
    """Run a job, and one in which a shard fails, and yield their views."""
    new = store.map_shards(Recompress("zstd"), ToZip(folder / "zips"))
    yield "result", new
    yield "summary", new.summary
    yield "records", new.records()
    yield "report", new.report()
    yield "verified", new.verify()
    (folder / "zips/t0.zarr.zip" if (folder / "zips/t0.zarr.zip").exists() else folder / "zips/t0/0.zarr.zip").unlink()
    yield "damaged", new.verify(level="exists")
    with pytest.raises(ShardsFailed) as raised:
        store.map_shards(Fail(failing), ToZip(folder / "failed"))
    yield "error", raised.value
    unfinished = ShardedStore.load(folder / "failed", partial=True, allow=[folder])
    yield "unfinished", unfinished
    yield "partial", unfinished.partial


@pytest.fixture(scope="module", params=SIZES)
def views(request, tmp_path_factory):
    """The size, and the pages of all views by name."""
    folder = tmp_path_factory.mktemp(request.param)
    arrays, blocks = SIZES[request.param]
    source_at(folder / "source.zarr", arrays, blocks)
    store = ShardedStore.partition(folder / "source.zarr", {"**": {"time": 4}})
    plan = store.plan(Recompress("zstd"), ToZip(folder / "planned"))
    total = plan.shard_count
    pages = {
        "partition": store,
        "info": store.info(count=True),
        "suggestion": store.suggest(size="1 KiB", access={"time": "series"}),
        "comparison": store.compare_codecs({"zstd": "zstd", "nothing": None}, arrays="t0", sample="1 KiB"),
        "plan": plan,
        "failures": ShardsFailed("many shards failed", failures_of(total)).failures,
        "report of a cluster": report_of(plan, folder / "cluster.html", total),
    }
    with dask.config.set(scheduler="sync"):
        if request.param == "few":
            pages.update(views_of_jobs(folder, store, "t0[1]"))
        else:  # ten thousand zips would take too long
            whole = ShardedStore.partition(folder / "source.zarr", {"**": "whole"})
            pages.update(views_of_jobs(folder, whole, "t0"))
    pages = {name: one._repr_html_() for name, one in pages.items()}
    for state, notes in (("running", ["t0[1]: OSError: no space left"]), ("done", []), ("failed", ["1 shard failed"])):
        pages[f"progress {state}"] = progress_html(
            "Recompress, ToZip to s3://bucket/zips", running(total), state, notes
        )
    written = {name: html_page(name, Html(page)) for name, page in pages.items()}
    for file in (*folder.glob("*/.shardedstore/report-*.html"), folder / "cluster.html"):
        written[f"report file {file.parent.parent.name}"] = file.read_text()
    return request.param, written


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


def test_views_fit_and_can_be_read(views, browser, pictures, tmp_path):
    size, pages = views
    faults = []
    for name, page in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(page)
        browser.open(file)
        for width, pixels in WIDTHS.items():
            for scheme in SCHEMES:
                title = f"{name}, {size}, {width}, {scheme}"
                looks = browser.look(pixels, scheme, pictures and pictures / f"{title}.png".replace(", ", "-"))
                faults += [f"{title}: {fault}" for fault in faults_of(name, looks, width)]
        faults += [f"{name}, {size}: {error}" for error in browser.errors]
    assert not faults, "\n".join(faults)


def faults_of(name, looks, width):
    """Yield what is wrong with a page."""
    screens = next((most for part, most in SCREENS.items() if part in name), 1.25) * (1 if width == "wide" else 2)
    if looks.overflow > 0:
        yield f"{looks.overflow} pixels wider than the window"
    if looks.height > screens * SCREEN:
        yield f"{looks.height} pixels high, more than {screens} screens"
    if looks.contrast < CONTRAST:
        yield f"contrast {looks.contrast:.2f} of {looks.faintest!r}"
