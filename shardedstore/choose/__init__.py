"""Help to choose a chain: a comparison of codecs on the data, and chains that other readers can read."""
