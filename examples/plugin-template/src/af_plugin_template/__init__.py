"""A plugin for af-core to begin from."""
