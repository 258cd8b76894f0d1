"""The latent text-to-image model: CLIP text encoder, VAE and U-Net. Their sizes are in `config`."""
