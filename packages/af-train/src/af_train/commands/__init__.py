"""The larger commands of `af-train`, one a module; imported when the command is called."""
