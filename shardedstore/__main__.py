"""``python -m shardedstore`` is the command line."""

from shardedstore.cli import main

if __name__ == "__main__":  # worker processes import the main module as well
    main(prog_name="python -m shardedstore")
