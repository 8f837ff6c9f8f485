"""From photographs anywhere to uint8 batches: manifest, order, cache, dataset, loader."""
