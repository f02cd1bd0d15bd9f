"""`bgproxy` and `python -m bgproxy`."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from bgproxy.cli.main import main as run
    except KeyboardInterrupt:  # Ctrl-C in the moment of the start is no reason for a traceback either
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
