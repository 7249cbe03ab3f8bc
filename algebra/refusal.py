"""The one exception whose message is written for the user."""


class Refusal(ValueError):
    """A request that cannot be met. The message is one sentence that says what to change."""
