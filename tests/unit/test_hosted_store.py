"""A store that is hosted for one address."""

import errno
import os
import socket

import pytest
import torch.distributed as dist
from listening import listening

from compsgd.comm.group.hosted_store import LOOPBACK, host_store
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.group.store import open_store


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


def rank_0_alone(monkeypatch, address):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", address)
    with socket.create_server((LOOPBACK, 0)) as free:
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    return open_store(RankInfo(launched=True))


def test_rank_0_hosts_for_the_address_that_others_know(monkeypatch):
    before = listening([os.getpid()])
    store = rank_0_alone(monkeypatch, "localhost")
    store.set("key", "value")
    assert {address for address, _ in listening([os.getpid()]) - before} <= {LOOPBACK, "::1"}


def test_an_address_that_others_give_to_this_machine(monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.EADDRNOTAVAIL, "not ours")

    monkeypatch.setattr("compsgd.comm.group.store.host_store", refuse)
    with caplog.at_level("WARNING", "compsgd"):
        store = rank_0_alone(monkeypatch, LOOPBACK)
    store.set("key", "value")
    assert caplog.messages == [
        "127.0.0.1 is no address of this machine: the store listens on all of them"
    ]
