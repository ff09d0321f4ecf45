"""`python -m peftbench`, which is `peftbench`."""

import sys

from peftbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
