"""Warnings of one run: shown at once, and gathered for its result."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PACKAGES = ("af_core", "af_audio", "af_runtime")


class Notices(logging.Handler):
    """A list of messages that also receives what the packages log as warnings on this thread."""

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._on_warning = on_warning
        self._thread = threading.get_ident()

    def note(self, message: str | None) -> None:
        """Keep a message and pass it on, once; None is no message."""
        if message and message not in self.messages:
            self.messages.append(message)
            self._on_warning(message)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log record, if it is from the thread that is listening."""
        if record.thread == self._thread:
            self.note(record.getMessage())


@contextmanager
def collected_notices(on_warning: Callable[[str], None]) -> Iterator[Notices]:
    """Gather what the packages log as warnings inside the block, and pass each on at once."""
    notices = Notices(on_warning)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    for logger in loggers:
        logger.addHandler(notices)
    try:
        yield notices
    finally:
        for logger in loggers:
            logger.removeHandler(notices)
