"""The long-form benchmark of the toon world: hundreds of clips, and their scores."""
