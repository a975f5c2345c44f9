"""Networks of pictures as stages: uint8 pixels outside, normalised latents inside."""
