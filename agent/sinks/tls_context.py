"""What no TLS connection of a sink needs, and what would let a peer take CPU time of the agent."""

import ssl


def restrict(context: ssl.SSLContext) -> None:
    """Refuse renegotiation and DHE, which TLS 1.3 does not have either (RFC 8446; RFC 9113, section 9.2).

    In DHE the peer chooses the group, and one handshake with a large group takes more than half a second. All
    other ciphers stay as the host's OpenSSL and its policy have them.
    """
    context.options |= ssl.OP_NO_RENEGOTIATION
    ciphers = [each for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]  # has its own list
    names = [each["name"] for each in ciphers if not each["name"].startswith("DHE-")]
    if names:
        context.set_ciphers(":".join(names))
