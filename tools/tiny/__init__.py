"""Building blocks of tools/train_tiny.py: corpus, tokenizer, samples, quantisers, model, training loop, export."""
