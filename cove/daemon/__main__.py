"""``python -m cove.daemon``: see ``main``."""

from __future__ import annotations

import sys

from cove.daemon.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
