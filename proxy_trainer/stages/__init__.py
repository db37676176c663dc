"""Recipes: one model through pretraining, mid-training and SFT, each stage runs of a study."""
