"""`python -m af_runtime.stages`: a nursery and its stages. A supervisor begins it, nobody else."""

import gc
import os
import socket
import sys

from af_runtime.stages.lifeline import end_with


def main() -> None:
    """Import what stages need, then be the nursery, and in its copies, stages."""
    end_with(os.getppid())
    line = socket.socket(fileno=int(sys.argv[1]))
    from af_runtime.stages import process  # torch comes with it
    from af_runtime.stages.nursery import keep

    gc.collect()
    gc.freeze()  # what is here stays, and is shared by all copies
    birth, ring = keep(line)
    process.run(birth, ring)


if __name__ == "__main__":
    main()
