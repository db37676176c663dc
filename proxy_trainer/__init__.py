"""Training and measuring: everything that needs torch."""
