"""``python -m af_train``: the command, for launchers such as torchrun that want a module."""

from af_train.cli import main

if __name__ == "__main__":
    main()
