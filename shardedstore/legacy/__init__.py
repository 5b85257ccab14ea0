"""The configs that shardedstore 0.3.1 wrote."""
