"""Event store, preparation, batching and LightningDataModules."""
