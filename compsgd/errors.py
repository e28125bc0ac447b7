"""The one error class of the library."""


class CompsgdError(ValueError):
    """A value that compsgd cannot work with; the message names it and says what is allowed."""
