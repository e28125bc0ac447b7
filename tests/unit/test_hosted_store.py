"""A store that is hosted for one address."""

import os
import socket

import pytest
import torch.distributed as dist
from listening import listening

from compsgd.comm.group.hosted_store import LOOPBACK, host_store


def test_it_listens_on_loopback_only():
    before = listening([os.getpid()])
    store = host_store()
    assert listening([os.getpid()]) - before == {(LOOPBACK, store.port)}
    client = dist.TCPStore(LOOPBACK, store.port, is_master=False)
    client.set("key", "value")
    assert store.get("key") == b"value"


def test_a_free_port_each():
    stores = [host_store() for _ in range(3)]
    assert len({store.port for store in stores}) == 3


def test_a_port_that_is_taken_and_an_address_of_another_machine():
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(OSError, match="in use"):
        host_store(LOOPBACK, taken.getsockname()[1])
    with pytest.raises(OSError, match="address"):
        host_store("192.0.2.1")
