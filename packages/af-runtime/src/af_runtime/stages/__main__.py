"""`python -m af_runtime.stages`: a stage process. A supervisor begins it; nobody else has to."""

import os

import msgspec

from af_runtime.stages.life import Birth
from af_runtime.stages.lifeline import hold


def main() -> None:
    """Read what to be from standard input, and be it until the supervisor is gone."""
    birth = msgspec.json.decode(_line(), type=Birth)
    hold(birth.parent)
    from af_runtime.stages.process import run  # torch comes with it

    run(birth)


def _line() -> bytes:
    """Read one line without taking more from the pipe, whose end is a sign."""
    read = bytearray()
    while not read.endswith(b"\n"):
        more = os.read(0, 1 if read else 65_536)
        if not more:
            os._exit(1)
        read += more
    return bytes(read)


if __name__ == "__main__":
    main()
