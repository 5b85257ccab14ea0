"""The chunks of a shard in the source: list them with tags, check that all are read, and delete them."""

from __future__ import annotations

from collections.abc import Collection

from toolz import partition_all

from shardedstore.errors import CorruptError, MoveError
from shardedstore.jobs.job import Job
from shardedstore.jobs.move.comparison import changed
from shardedstore.jobs.open_shard import open_shard
from shardedstore.jobs.shards import Run
from shardedstore.jobs.stages import Stages
from shardedstore.jobs.worker import ShardReader
from shardedstore.storage.folders import open_folder
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import is_remote
from shardedstore.stores.locations import Place
from shardedstore.stores.reader import reader_of, tags_of
from shardedstore.transforms.base.chain import Entries, Shard, whole_key

AT_ONCE = 1000  # objects for each listing of tags and each request for deletion; local files are deleted one by one
Tags = dict[str, tuple[int, str]]  # the size and the tag of each key in the whole source


def list_tags(run: Run, shard: Shard) -> Tags:
    """List the keys of a shard with sizes and tags."""
    return patiently(lambda: {key: (nbytes, tag) for key, nbytes, tag in tags_of(open_shard(run, shard))})


class WholeReader(ShardReader):
    """Reads a shard, and checks that all listed chunks are read and that the listing has not changed.

    This prevents the publication of a shard if another worker has started to delete its chunks.
    """

    def __init__(self, job: Job, run: Run, shard: Shard, stages: Stages, listed: Run, tags: Tags) -> None:
        super().__init__(job, run, shard, stages)
        self._listed, self._tags = listed, tags

    def _read(self) -> Entries:
        keys = set[str]()
        for entry in super()._read():
            if entry.coords is not None:
                keys.add(whole_key(entry, self.shard))
            yield entry
        is_read = self.shard.block is None or keys == self._tags.keys()
        if not is_read or list_tags(self._listed, self.shard) != self._tags:
            raise CorruptError(
                f"the source of shard {self.shard.name!r} changed while it was read: stop all writers to the source, and run the job again"
            )


def delete_chunks(source: Place, keys: Collection[str], tags: Tags, shard: Shard) -> int:
    """Delete the chunks of a verified shard whose tags are those of the comparison, and return their size in bytes.

    Raises
    ------
    MoveError
        If a chunk has another tag, or is a symbolic link. It is not deleted.
    """
    folder, reader = open_folder(source.url, source.options), reader_of(source.open())
    if linked := folder.links(keys):
        raise MoveError(
            f"shard {shard.name!r}: {linked[0]!r} is a symbolic link, or lies behind one, so other programs may use the file: nothing was deleted; replace the "
            "link by its target",
            "failed",
        )
    nbytes, edited = 0, list[str]()
    for some in partition_all(AT_ONCE if is_remote(source.url) else 1, sorted(keys)):
        now = {key: (size, tag) for key, size, tag in reader.tags(some)}
        same = [key for key in some if key in now and now[key] == tags.get(key)]
        edited += sorted(now.keys() - set(same))
        folder.remove_all(same)
        nbytes += sum(tags[key][0] for key in same)
    folder.remove_empty({key.rpartition("/")[0] for key in keys})
    if edited:
        raise changed(shard, edited)
    return nbytes
