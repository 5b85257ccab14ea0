"""The estimate of a job before it runs: its shards, files, bytes, requests, memory, time, cost and free space."""
