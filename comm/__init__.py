"""Between processes: the process group, exchanges of ballots, and the ledger of bytes."""

from compsgd.comm.collectives import Collectives
from compsgd.comm.exchange import AllGatherExchange, ScatterReduceExchange, build_exchange
from compsgd.comm.ledger import Ledger

__all__ = ["AllGatherExchange", "Collectives", "Ledger", "ScatterReduceExchange", "build_exchange"]
