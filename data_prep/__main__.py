"""python -m data_prep VIDEOS DATASET: a folder of videos becomes a checked dataset. The story is in prepare.py."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Inside, because each process that decodes imports this file again, and has no use for the rest.
    from data_prep.sigterm import interruptible

    interruptible()  # before what takes seconds to import

    from data_prep.errors import exit_cleanly
    from data_prep.prepare import main

    sys.exit(exit_cleanly(main)())
