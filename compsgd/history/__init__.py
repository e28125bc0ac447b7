"""What training measured: reading and writing histories, and their axes."""

from compsgd.history.histories import Histories, History, read_histories, write_histories

__all__ = ["Histories", "History", "read_histories", "write_histories"]
