"""Between processes: the process group, exchanges of ballots, the ledger of bytes, and a hook for
DistributedDataParallel."""

from compsgd.comm.collectives import Collectives
from compsgd.comm.exchange import AllGatherExchange, ScatterReduceExchange, build_exchange
from compsgd.comm.hook import vote_hook, wrap
from compsgd.comm.ledger import Ledger
from compsgd.comm.vote_state import VoteState

__all__ = [
    "AllGatherExchange",
    "Collectives",
    "Ledger",
    "ScatterReduceExchange",
    "VoteState",
    "build_exchange",
    "vote_hook",
    "wrap",
]
