"""Autoencoding a single bit: the smallest VAE that can fail, with every answer known exactly."""
