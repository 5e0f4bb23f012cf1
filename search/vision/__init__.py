"""Training of image classifiers: `from search.vision import ImageClassification, ImageShape`."""

from search.vision.image_classification import ImageClassification, ImageShape

__all__ = ["ImageClassification", "ImageShape"]
