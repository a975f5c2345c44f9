"""Pipelines that come with af-core: one YAML file each, with its weights in a folder beside it."""
