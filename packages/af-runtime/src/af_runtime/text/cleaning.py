"""Prompts cleaned as the published model saw them in training (spec section 5.1)."""

from af_core.prompts.text import tidy


def clean(prompt: str) -> str:
    """Return the prompt with broken letters mended, entities resolved and white space single.

    Raises ``PromptError`` for what is no text.
    """
    import ftfy

    tidy(prompt)  # refuses half letters, which ftfy would replace without a word
    return tidy(ftfy.fix_text(prompt))
