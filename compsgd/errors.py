"""The errors of the library: one base, and a kind for each of who can mend it."""


class CompsgdError(Exception):
    """Base of all errors of compsgd; the message says what is wrong, where, and what to do.

    Source:
        design, section 7, "Errors".

    Examples:
        >>> import compsgd
        >>> try:
        ...     compsgd.packed_num_bytes(10, num_bits=9)
        ... except compsgd.CompsgdError as error:
        ...     print(error)
        num_bits is 9; it must be an integer from 1 to 8
    """


class SettingError(CompsgdError, ValueError):
    """A caller's mistake: an argument, a saved state, or a call that does not fit.

    Source:
        design, section 7, "Errors".

    Examples:
        >>> import compsgd, torch
        >>> compsgd.pack(torch.tensor([5]), num_bits=3)
        Traceback (most recent call last):
        compsgd.errors.SettingError: level 5 does not fit; with this num_bits levels run from ...
    """


class DamagedDataError(CompsgdError, ValueError):
    """Bytes, files or messages that this library cannot have written.

    Source:
        design, section 7, "Errors".

    Examples:
        >>> import compsgd, torch
        >>> compsgd.unpack(torch.tensor([214, 249], dtype=torch.uint8), 5, num_bits=3)
        Traceback (most recent call last):
        compsgd.errors.DamagedDataError: packed levels end in padding that is not zero; ...
    """


class GradientError(CompsgdError, ArithmeticError):
    """A gradient that is not finite, where `strict` makes that an error.

    Source:
        design, sections 5 and 7, "Errors".

    Examples:
        >>> import compsgd, torch
        >>> weights = torch.zeros(1)
        >>> weights.grad = torch.tensor([float("nan")])
        >>> compsgd.SignSGD([weights], lr=0.1, strict=True).step()
        Traceback (most recent call last):
        compsgd.errors.GradientError: worker 0 sits out round 0: the gradient of parameter ...
    """


class PeerError(CompsgdError, RuntimeError):
    """Another process is gone, hangs, or runs something else.

    Source:
        design, section 7, "Errors".

    Examples:
        >>> import compsgd
        >>> from compsgd.comm.group.collectives import CollectiveError
        >>> issubclass(CollectiveError, compsgd.PeerError)
        True
    """
