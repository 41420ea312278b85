"""The errors a person can act on, and words for their messages."""


class InputError(ValueError):
    """Input that cannot be worked with: the message names the field, the value found and what to do.

    Jobs print it without a traceback and exit with status 2, before any work is started.
    """


class RetryableError(RuntimeError):
    """Work that was stopped from outside, such as by a full disk: the message says by what, and what to do.

    Jobs print it without a traceback and exit with status 1. What is finished is kept: once the cause is mended, the
    same command goes on from there.
    """


def name_type(value: object) -> str:
    """Return the name of a value's type with its article: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
