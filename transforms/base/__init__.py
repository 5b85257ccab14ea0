"""The parts that transforms are built from."""
