"""The two ways a run ends badly, as the command reports them: one line and an exit code."""

import click


class UsageError(click.UsageError):
    """The user asked for something impossible: exit code 2, nothing was created."""


class RunError(click.ClickException):
    """The run failed: exit code 1."""


class InterruptedRunError(RunError):
    """A signal has ended the run, on all processes after the same round."""
