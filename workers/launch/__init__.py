"""Processes: how they start without torchrun, and how they end well."""
