"""The latent text-to-image model: CLIP text encoder, VAE and U-Net, written from their papers, sizes in `config`."""
