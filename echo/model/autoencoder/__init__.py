"""The Fish S1-DAC autoencoder and its streaming decoder."""

from echo.model.autoencoder.config import RELEASED, AutoencoderConfig
from echo.model.autoencoder.dac import Autoencoder

__all__ = ["RELEASED", "Autoencoder", "AutoencoderConfig"]
