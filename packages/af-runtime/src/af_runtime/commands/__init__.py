"""The sub-commands of ``af-runtime``, one module each, imported only when called."""
