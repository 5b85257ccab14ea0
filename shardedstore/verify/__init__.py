"""Whether a result is whole, as it was written, and equal to its source."""
