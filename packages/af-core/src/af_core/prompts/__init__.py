"""Embeddings of prompts, computed once and looked up by the text from then on."""
