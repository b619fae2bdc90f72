"""Requests to servers on this machine, without the proxy of the environment."""

import urllib.request
from http.client import HTTPException

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine."""

NO_ANSWER = (OSError, HTTPException)
"""Errors of a request to a server that is unreachable, or that ends during its answer (`IncompleteRead`)."""
