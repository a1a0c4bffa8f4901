"""``python -m cove.daemon``: see ``main``."""

from __future__ import annotations

import os
import sys

from cove.daemon.main import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Threads that still serve somebody must not keep a daemon that has given its lock back.
    os._exit(code)
