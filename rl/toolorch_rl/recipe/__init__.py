"""How to make a small policy from nothing: a tokenizer, a model, and supervised training on rendered runs."""
