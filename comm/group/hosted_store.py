"""Hosting the store that all processes share, for one address only.

torch's own host listens on every interface of the machine, and asks nobody who he is.
"""

import socket
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not exported

LOOPBACK = "127.0.0.1"


def host_store(
    address: str = LOOPBACK,
    port: int = 0,
    world_size: int | None = None,
    timeout: timedelta = timedelta(seconds=300),
) -> TCPStore:
    """A store that only those can reach who reach this address; it lives as long as the object.

    Args:
        address: of this machine, or a name for one; by default only its own processes come through.
        port: 0 for one that is free; `store.port` says which it is.
        world_size: how many clients to wait for, this process being one; None for nobody.
        timeout: how long to wait for them, and later for a value.

    Raises:
        OSError: the address is not this machine's, or the port is taken.
        RuntimeError: they have not come in time.

    Examples:
        >>> import torch.distributed as dist
        >>> store = host_store()
        >>> client = dist.TCPStore("127.0.0.1", store.port, is_master=False)
        >>> client.set("key", "value")
        >>> store.get("key")
        b'value'
    """
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server(place[:2], family=family, backlog=socket.SOMAXCONN)
    port = listening.getsockname()[1]
    # The store closes the descriptor.
    return TCPStore(
        address,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=world_size is not None,
        master_listen_fd=listening.detach(),
    )
