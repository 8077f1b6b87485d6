"""``python -m anchor_heads COMMAND ...``, the same as ``anchor-heads COMMAND ...``."""

import sys

from anchor_heads.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
