"""`python -m outrider` is `outrider`."""

import sys

from outrider.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
