"""Under which names a server is reached that listens at an address."""

import socket

# What is listened at where every address of the machine is: this machine's own name of it, and an address of another
# network, towards which the machine's own address is looked up. (It is reserved for examples; nothing is sent.)
_EVERYWHERE = {
    "": ("127.0.0.1", socket.AF_INET, "192.0.2.1"),
    "0.0.0.0": ("127.0.0.1", socket.AF_INET, "192.0.2.1"),
    "::": ("::1", socket.AF_INET6, "2001:db8::1"),
}


def names(host: str) -> list[str]:
    """Return the names of a server: for other machines first, then for this one, where that is another.

    Args:
        host: Where it listens.
    """
    if host not in _EVERYWHERE:
        return [host]
    own, family, elsewhere = _EVERYWHERE[host]
    return [_towards(elsewhere, family), own]


def _towards(elsewhere: str, family: socket.AddressFamily) -> str:
    """Return the address that this machine has in its network; its name where it is in none."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((elsewhere, 9))
            return asking.getsockname()[0]
    except OSError:
        return socket.gethostname()
