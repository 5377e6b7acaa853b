"""Captioning: generates captions of images, measures their quality, and describes drawn scenes."""
