"""The thread that sends a run to MLflow, ended as its process would end it."""


def end_thread(logger) -> None:
    """Send nothing more; returns when what was being sent is over."""
    logger._follower._send = lambda: None
    while not logger._follower.flush(300):  # an attempt that was under way has failed
        pass
