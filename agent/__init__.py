"""The agent. Each import of one of its modules runs this file first."""

import sys
from importlib import import_module

__version__ = "0.1.0"

# structlog imports rich where it is installed, to draw tracebacks, which takes memory and time at each start.
# The agent writes plain ones (runtime/logs.py).
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it now raises ImportError
    import_module("structlog")

    del sys.modules["rich"]
