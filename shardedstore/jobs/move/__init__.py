"""Move mode: delete the chunks of a source, shard by shard, after each shard was verified; see docs/design/0021."""
