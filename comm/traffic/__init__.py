"""Bytes: the ledger, the cost model, and the counters of the operating system."""
