"""Process-wide state that the server and the app share."""


class Lifecycle:
    """Where the process stands between its start and its end."""

    draining: bool = False


lifecycle = Lifecycle()
