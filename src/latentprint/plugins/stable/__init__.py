"""Stable Diffusion and its kin: any diffusers folder with a cross-attention U-Net and an autoencoder, as prior base."""
