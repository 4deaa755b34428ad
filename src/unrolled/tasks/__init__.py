"""LightningModules: a question with its loss, its metrics and a known scale."""
