"""The error a person can act on."""


class InputError(ValueError):
    """Input that cannot be worked with: the message names the field, the value found and what to do.

    Jobs print it without a traceback and exit with status 2, before any work is started.
    """
