"""The config of a sharded store: its JSON document, checks and JSON Schema, and configs of shardedstore 0.3.1."""
