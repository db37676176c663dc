"""The models that are trained: the native decoder and its Hugging Face form."""
