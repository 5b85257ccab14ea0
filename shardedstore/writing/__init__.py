"""A sharded store that is written to: arrays become shards as they are made."""
