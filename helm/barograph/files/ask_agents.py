"""Checks the readiness and the components of every agent behind a headless Service: `helm test`."""

import json
import socket
import sys
import urllib.error
import urllib.request

service, port = sys.argv[1:]


def ask(address, path):
    host = f"[{address}]" if ":" in address else address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


try:
    found = socket.getaddrinfo(service, int(port), type=socket.SOCK_STREAM)
except OSError as error:
    sys.exit(f"{service}: {error}; no agent is running, or the cluster's DNS does not resolve the Service")
addresses = sorted({each[4][0] for each in found})
failed = 0
for address in addresses:
    status, text = ask(address, "/readyz")
    failed += status != 200
    print(address, "ready" if status == 200 else f"NOT READY: {text.strip()}")
    status, text = ask(address, "/healthz")
    if status == 200:
        for name, part in json.loads(text).get("components", {}).items():
            print(f"  {name}: {part.get('state')}: {part.get('why')}")
print(f"{len(addresses) - failed} of {len(addresses)} agents are ready")
sys.exit(1 if failed else 0)
