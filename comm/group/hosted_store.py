"""Hosting the store that all processes share, for one address only.

torch's own host listens on every interface of the machine, and asks nobody who he is.
"""

import socket

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not exported

LOOPBACK = "127.0.0.1"


def host_store(address: str = LOOPBACK, port: int = 0) -> TCPStore:
    """A store that only those can reach who reach this address; it lives as long as the object.

    Args:
        address: of this machine; by default only its own processes come through.
        port: 0 for one that is free; `store.port` says which it is.

    Raises:
        OSError: the address is not this machine's, or the port is taken.

    Example:
        >>> import torch.distributed as dist
        >>> store = host_store()
        >>> client = dist.TCPStore("127.0.0.1", store.port, is_master=False)
        >>> client.set("key", "value")
        >>> store.get("key")
        b'value'
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.create_server((address, port), family=family, backlog=socket.SOMAXCONN)
    port = listening.getsockname()[1]
    # The store closes the descriptor.
    return TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
