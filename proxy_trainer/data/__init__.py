"""From text on disk to batches of tokens: sources, tokenizer, shards, mixture sampler."""
