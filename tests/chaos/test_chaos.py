"""Some trials of every kind of fault; ``make chaos`` runs hundreds and prints their results."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from chaos import clock, damage, disks, joining, killing, moving, pausing, processes, slicing, storms
from chaos.place import make_scene

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
SEED = "short"
AT_ONCE = 3
CLOCK = "clocks jump"
KILLS = zip(killing.WHO, killing.DESTINATIONS, strict=True)
ON_DISKS = {
    "full": partial(disks.full, sink="zips"),
    "no inodes": partial(disks.without_inodes, sink="copy"),
    "read-only": partial(disks.read_only, sink="sharding"),
}
TRIALS = {
    **{who: partial(killing.killed, who=who, sink=sink, in_cloud=cloud) for who, (sink, cloud) in KILLS},
    "a worker stands still": partial(pausing.paused, sink="copy", in_cloud=False),
    "an older job wakes": pausing.overtaken,
    "a source file vanishes": partial(damage.damaged, kind="vanishes"),
    "a source file is cut short": partial(damage.damaged, kind="is cut short"),
    "errors of S3": partial(storms.storm, fault=next(iter(storms.STORMS)), sink="zips"),
    "S3 is gone": partial(storms.storm, fault=storms.GONE, sink="sharding", gone=2),
    "a move on a local disk": partial(moving.moved, sink="zips", in_cloud=False),
    "a move in S3": partial(moving.moved, sink="copy", in_cloud=True),
    "slices on a local disk": partial(slicing.sliced, sink="zips", in_cloud=False),
    "slices in S3": partial(slicing.sliced, sink="copy", in_cloud=True),
    "one zip is joined on a local disk": partial(joining.joined, in_cloud=False),
    "one zip is joined in S3": partial(joining.joined, in_cloud=True),
    CLOCK: partial(clock.jumping, sink="zips"),
    **ON_DISKS,
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, s3_server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        processes.prepare()
        yield make_scene(tmp_path_factory.mktemp("chaos"), s3_server)


@pytest.fixture(scope="module")
def trials(request, scene):
    """The trials of the selected tests, several at a time, as they mostly wait."""
    names = [item.callspec.params["name"] for item in request.session.items if "trials" in item.fixturenames]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(TRIALS[name], scene, f"{SEED}/{name}") for name in names if not cannot(name)}


def cannot(name):
    """The reason why a trial can't run on this machine."""
    if name in ON_DISKS and not disks.can_mount():
        return "only root can mount a disk that gets full"
    if name == CLOCK and not clock.can_jump():
        return "there is no C compiler for the library that moves a clock"
    return None


@pytest.mark.few(8)
@pytest.mark.parametrize("name", TRIALS)
def test_nothing_is_lost(name, trials):
    if why := cannot(name):
        pytest.skip(why)
    trial = trials[name].result()
    assert (trial.lost, trial.hung) == ([], 0), f"{trial.story}\n{trial.log}"
