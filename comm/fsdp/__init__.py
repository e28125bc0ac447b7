"""The vote between replicas of a model that fully_shard (FSDP2) shards. Imported by who uses it:
torch's FSDP takes a second to load."""

from compsgd.comm.fsdp.hook import register_fsdp_vote_hook

__all__ = ["register_fsdp_vote_hook"]
