"""``python -m limner`` is ``limner``; so is ``torchrun --nproc_per_node 2 -m limner``."""

import sys

from limner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
