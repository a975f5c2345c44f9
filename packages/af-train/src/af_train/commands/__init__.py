"""Sub-commands of ``af-train`` that are files of their own."""
