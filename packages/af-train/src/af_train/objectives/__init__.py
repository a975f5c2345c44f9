"""Training objectives: what each minimises, for which roles, in which rhythm."""
