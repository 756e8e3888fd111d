"""Put in Python's path as ``sitecustomize``: this process and all that it starts write every use of
the network into the file $NETWORK_LOG, and are refused it.

Python itself reports them (audit events of the module socket), so that no way around its functions
is left but compiled code that calls the system.
"""

import os
import sys
import traceback

_EVENTS = (
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.getnameinfo",
    "socket.sendto",
    "urllib.Request",
)


def _stays_here(event: str, arguments: tuple) -> bool:
    """Sockets with a name in the file system, and what urllib3 does when it is imported: it asks
    the system for an address of its own, ::1, to see if it has IPv6; nothing is sent.
    """
    address = arguments[1] if event in ("socket.bind", "socket.connect", "socket.sendto") else None
    return isinstance(address, (str, bytes)) or (
        event == "socket.bind" and address[0] in ("::1", "127.0.0.1")
    )


def _refuse(event: str, arguments: tuple) -> None:
    if event not in _EVENTS or _stays_here(event, arguments):
        return
    with open(os.environ["NETWORK_LOG"], "a", encoding="utf-8") as log:
        caller = traceback.extract_stack(limit=8)
        log.write(f"{event} {arguments[1:]} from {[f'{c.filename}:{c.lineno}' for c in caller]}\n")
    raise ConnectionRefusedError(f"the network is used: {event}")


sys.addaudithook(_refuse)
