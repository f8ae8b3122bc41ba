"""Which autoencoder a preset asks for."""

from ffrl.models.autoencoder import Autoencoder, MLPAutoencoder
from ffrl.models.convolutional import ConvAutoencoder, LargeConvAutoencoder
from ffrl.presets import Preset


def build_autoencoder(preset: Preset, image_shape: tuple[int, int, int]) -> Autoencoder:
    """The untrained autoencoder of the preset, for images (C, H, W)."""
    if preset.autoencoder == "conv":
        return ConvAutoencoder(preset.latent_dim, preset.conv_width, image_shape)
    if preset.autoencoder == "conv_large":
        return LargeConvAutoencoder(preset.latent_dim, preset.conv_width, image_shape)
    return MLPAutoencoder(preset.latent_dim, preset.hidden, image_shape)
