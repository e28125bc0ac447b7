"""Hosts with several processes: inside a host ballots travel, between hosts sums of them (design,
section 3).

A host's link carries one sum and one result of every element, however many workers the host has.
"""

from torch import Tensor

from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.comm.exchanges import ProcessExchange, ScatterReduceExchange
from compsgd.comm.group.agreement import check_agreement
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group.rank_info import RankInfo
from compsgd.comm.traffic.ledger import Purpose
from compsgd.errors import SettingError
from compsgd.layout import shard_numel
from compsgd.voting.exchange import Arrival, Exchange


class HierarchicalExchange(ProcessExchange):
    """Inside a host every process counts one shard of the ballots of its host; the sums of each
    shard go to the process with that shard on every other host, which counts a part of them; and
    results come back the same way.

    Each of g workers of one of H hosts sends 2 * (g-1)/g * P to others of its host, and
    (H-1)/H * (Q + P) / g to other hosts, where P is the packed size of a ballot and Q that of the
    sum of g ballots.

    Attributes:
        outer: between the hosts.

    Source:
        design, section 3.

    Examples:
        >>> from compsgd.comm import Collectives, HierarchicalExchange, Ledger, Purpose
        >>> alone = Collectives(Ledger(), Purpose.GRADIENT, num_workers=4)
        >>> exchange = HierarchicalExchange(alone, processes_per_host=1)
        >>> exchange.num_shards, exchange.outer.num_shards  # one host, with one process
        (1, 1)
    """

    def __init__(
        self,
        collectives: Collectives,
        bookkeeping: Collectives | None = None,
        *,
        processes_per_host: int,
        entropy_coding: str = "off",
    ) -> None:
        """
        Args:
            collectives, bookkeeping: as of the other exchanges.
            entropy_coding: between hosts.
            processes_per_host: neighbours by rank; divides the number of processes.
        """
        super().__init__(collectives, bookkeeping)
        first = collectives.rank - collectives.rank % processes_per_host
        inside = range(first, first + processes_per_host)
        num_hosts = collectives.world_size // processes_per_host
        peers = range(collectives.rank % processes_per_host, collectives.world_size,
                      processes_per_host)  # fmt: skip
        num_inside = collectives.num_workers // num_hosts
        self._inner = ScatterReduceExchange(collectives.among(inside, num_inside))
        self.outer: Exchange | None = ScatterReduceExchange(
            collectives.among(peers, num_hosts), entropy_coding=entropy_coding
        )
        self.num_shards, self.shard = self._inner.num_shards, self._inner.shard

    def distribute(self, ballots: Tensor, format: RoundFormat | None) -> Arrival:
        """One all-to-all inside the host: of the ballots of its workers, this process's shard."""
        return self._inner.distribute(ballots, format)

    def collect(self, result: Tensor, format: RoundFormat) -> Arrival:
        """One all-gather of the shards' results inside the host."""
        return self._inner.collect(result, format)

    def _sent_bytes(self, format: RoundFormat) -> int:
        assert format.result is not None
        numel = shard_numel(format.result.numel, self.num_shards)
        outer = WireFormat(numel, format.result.alphabet)
        between = RoundFormat(outer, outer)
        assert isinstance(self.outer, ScatterReduceExchange)
        return self._inner._sent_bytes(format) + self.outer._sent_bytes(between)


def between_hosts(
    collectives: Collectives, bookkeeping: Collectives | None = None, *, entropy_coding: str = "off"
) -> Exchange:
    """A hierarchical exchange, or, where there is one host, or a process on each, scatter_reduce.

    Raises:
        SettingError: hosts do not have equally many processes.
        PeerError: processes have been told otherwise of their hosts.
    """
    found = _processes_per_host(collectives)
    if collectives.world_size > 1:
        words = {"how many processes share a host (LOCAL_WORLD_SIZE)": str(found)}
        check_agreement(bookkeeping or collectives.of_purpose(Purpose.BOOKKEEPING), words)
    if found in (1, collectives.world_size):
        return ScatterReduceExchange(collectives, bookkeeping, entropy_coding=entropy_coding)
    if collectives.world_size % found:
        raise SettingError(
            f"exchange is 'hierarchical', but {collectives.world_size} processes are not {found} "
            "on every host; take scatter_reduce"
        )
    return HierarchicalExchange(
        collectives, bookkeeping, processes_per_host=found, entropy_coding=entropy_coding
    )


def _processes_per_host(collectives: Collectives) -> int:
    """Those of the group on this process's host, as the launcher has numbered them: all, if none
    has.

    Raises:
        SettingError: the group does not have hosts in the order of their ranks.
    """
    info, ranks = RankInfo.from_environment(), collectives.global_ranks
    if not info.launched:
        return len(ranks)
    if ranks != sorted(ranks):
        raise SettingError("exchange is 'hierarchical', but the ranks of the group do not ascend")
    own = ranks[collectives.rank] // info.local_world_size
    return sum(rank // info.local_world_size == own for rank in ranks)
