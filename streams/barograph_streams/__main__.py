"""`python -m barograph_streams`."""

import sys

from barograph_streams.cli import main

sys.exit(main())
