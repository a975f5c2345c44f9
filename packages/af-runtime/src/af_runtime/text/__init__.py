"""umT5: prompts cleaned, tokenised and encoded once, then found in a cache (spec section 5.1)."""
