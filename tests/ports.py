"""Ports for services that a test starts by their address.

Each is given once in a process. A port that the kernel picks (bind to 0) is free again once that socket is closed, and is then picked
anew now and then: for the next service, or for a client's end of a connection.
"""

import random
import socket

# Below those that Linux gives to clients' ends (net.ipv4.ip_local_port_range, 32768 and up).
FIRST, BEHIND_LAST = 15000, 32000

_next = random.randrange(FIRST, BEHIND_LAST)


def free_port():
    """Where nobody listens on loopback, and what no earlier call gave."""
    global _next
    while True:
        port, _next = _next, _next + 1 if _next + 1 < BEHIND_LAST else FIRST
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
