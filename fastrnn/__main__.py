"""``python -m fastrnn``: see :mod:`fastrnn.cli.app`."""

import sys

from fastrnn.cli.app import main

sys.exit(main())
