"""``python -m writewatch``: the command line."""

import sys

from writewatch.observe.cli import main

if __name__ == "__main__":
    sys.exit(main())
