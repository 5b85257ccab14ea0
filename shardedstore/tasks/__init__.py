"""What a worker does for a segment of shards, and what is known of it: the plan and the ledger. It knows no Dask."""
