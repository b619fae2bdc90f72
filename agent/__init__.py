"""The agent. Each import of one of its modules runs this file first."""

import gc
import os
import sys
from importlib import import_module

__version__ = "0.2.0"

# Python's defaults are 700, 10, 10. A start makes 100,000 objects and a sample a few hundred, and almost
# none of them are in a cycle.
gc.set_threshold(10_000, 20, 20)

# pydantic searches all installed packages for plugins. The agent needs none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# structlog imports rich where it is installed, to draw tracebacks, which takes memory and time at each start.
# The agent writes plain ones (runtime/logs.py).
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # pyrefly: ignore[unsupported-operation]  # an import of it now raises ImportError
    import_module("structlog")

    del sys.modules["rich"]
