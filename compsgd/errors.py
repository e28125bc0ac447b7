"""The errors of the library: one base, and a kind for each of who can mend it."""


class CompsgdError(Exception):
    """Base of all errors of compsgd; the message says what is wrong, where, and what to do.

    Example:
        >>> import compsgd
        >>> try:
        ...     compsgd.packed_num_bytes(10, num_bits=9)
        ... except compsgd.CompsgdError as error:
        ...     print(error)
        num_bits is 9; it must be an integer from 1 to 8
    """


class SettingError(CompsgdError, ValueError):
    """A caller's mistake: an argument, a saved state, or a call that does not fit."""


class DamagedDataError(CompsgdError, ValueError):
    """Bytes, files or messages that this library cannot have written."""


class GradientError(CompsgdError, ArithmeticError):
    """A gradient that is not finite, where `strict` makes that an error."""


class PeerError(CompsgdError, RuntimeError):
    """Another process is gone, hangs, or runs something else."""
