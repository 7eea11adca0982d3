"""TimeSformer and the weights, processor and thresholds that make it a classifier."""
