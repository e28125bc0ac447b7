"""Between processes: exchanges of ballots, the ledger of bytes, a hook for
DistributedDataParallel, and an aggregator for a loop of one's own."""

from compsgd.comm.ddp.hook import VoteState, register_vote_hook, vote_hook, wrap
from compsgd.comm.exchange_choice import build_exchange
from compsgd.comm.exchanges import AllGatherExchange, ScatterReduceExchange
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.hierarchical_exchange import HierarchicalExchange
from compsgd.comm.traffic.ledger import Ledger, Purpose
from compsgd.comm.vote_aggregator import VoteAggregator

__all__ = [
    "AllGatherExchange",
    "Collectives",
    "HierarchicalExchange",
    "Ledger",
    "Purpose",
    "ScatterReduceExchange",
    "VoteAggregator",
    "VoteState",
    "build_exchange",
    "register_vote_hook",
    "vote_hook",
    "wrap",
]
