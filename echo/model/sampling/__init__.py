"""How noise becomes latents: schedule, guidance, blocks, and where speech ends."""
