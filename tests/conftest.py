"""What all tests share: the modules `sources` and `conformance` beside this file can be imported by name."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A machine under load is no failure, and a run is the same as the one before: what it finds can be found again.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("default")
