"""af-train."""
