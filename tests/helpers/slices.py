"""Slices (N, C, H, W) to try tasks on, and tensors as numpy takes them."""

import numpy as np
import torch
from scipy import ndimage


def smooth_slices(number=5, channels=1, size=32, seed=0):
    """Smooth slices, each channel of each of mean 0 and variance 1."""
    image = np.random.default_rng(seed).normal(size=(number, channels, size, size))
    image = ndimage.gaussian_filter(image, (0, 0, 2, 2))
    image = (image - image.mean((2, 3), keepdims=True)) / image.std((2, 3), keepdims=True)
    return torch.from_numpy(image).float()


def numbers(tensor):
    return tensor.detach().double().numpy()
