"""The one exception of this folder."""


class ExplainError(ValueError):
    """A page or figure that cannot be made as it was asked for; the message says what is wrong and how to fix it."""
