"""Writable sharded stores: arrays are divided into shards when they are written."""
