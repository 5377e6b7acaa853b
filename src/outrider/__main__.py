"""`python -m outrider` is `outrider`."""

import sys

from outrider.cli.entry import run

if __name__ == "__main__":
    sys.exit(run())
