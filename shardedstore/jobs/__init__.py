"""Jobs: checks, plan, run, ledger, result and its later care. Only `executors` imports Dask."""
