"""A trained model at work: asked about files, streams and long videos, explained, exported."""
