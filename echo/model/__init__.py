"""The neural code: EchoDiT, the S1-DAC autoencoder, samplers and weight loading. Knows no settings and no threads."""
