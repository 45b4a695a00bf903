"""python -m rmtkit"""

import sys

from rmtkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
