"""The process group: collectives, messages, the shared store, who is there."""
