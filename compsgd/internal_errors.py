"""Errors between our own parts: a command turns them into its exit code and its line."""

from compsgd.errors import PeerError


class StoreError(PeerError):
    """There is no store: a process can do nothing, and nobody needs to be told."""


class ElsewhereError(Exception):
    """Another process failed; its own message says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
