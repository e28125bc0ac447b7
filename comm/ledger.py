"""The older place of `compsgd.comm.traffic.ledger`, kept for one version."""

from compsgd.comm.traffic.ledger import Flow, Ledger, Purpose, StepTraffic, Transfer

__all__ = ["Flow", "Ledger", "Purpose", "StepTraffic", "Transfer"]
