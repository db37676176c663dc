"""Conversations for supervised fine-tuning: read, rendered, masked, packed."""
