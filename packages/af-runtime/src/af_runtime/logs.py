"""How the worker logs: lines for people, or one JSON object a line. Never sound, never pictures.

Arrays and bytes that find their way into a message are shown by their size alone, and whatever a
client chose, such as the name of a session, cannot begin a new line.
"""

import datetime
import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = ("text", "json")

LOGGER = "af_runtime"
MOST_CHARACTERS = 4_096
"""Longer messages are cut."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logs(format: LogFormat = "text", level: int = logging.INFO) -> None:
    """Let everything that af_runtime logs go to stderr in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


class TextLines(logging.Formatter):
    """Lines for people: the message, and a level where it is not mere information."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; a traceback follows it."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        line = level + _one_line(_message(record) + extra)
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_extra(record),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)[-MOST_CHARACTERS:]
        return msgspec.json.encode(told).decode()


def without_media(value: Any) -> Any:
    """Return a value that may be logged: of bytes and arrays only how large they are."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{memoryview(value).nbytes} bytes>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{value.dtype} {list(value.shape)}>"
    if isinstance(value, Mapping):
        return {str(key): without_media(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [without_media(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _message(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, Mapping):
        cleaned: Any = {key: without_media(value) for key, value in args.items()}
    else:
        cleaned = tuple(without_media(value) for value in args or ())
    text = str(record.msg) % cleaned if cleaned else str(record.msg)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {k: without_media(v) for k, v in vars(record).items() if k not in _STANDARD}


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
