"""Augmentation of whole batches of images. Random numbers are arguments."""
