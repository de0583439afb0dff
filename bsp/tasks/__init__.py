"""Localisation tasks on frozen features: features and annotations in, predictions and scores out."""
