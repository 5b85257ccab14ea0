"""Where bytes are: files of a local disk and objects of a store, read, written whole, and listed."""
