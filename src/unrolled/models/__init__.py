"""Embeddings, encoders, read-outs and heads; plain torch modules."""
