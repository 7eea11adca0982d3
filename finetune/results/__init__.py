"""What is known of a model and how it is written down: scores, metrics, intervals, predictions, pictures, templates."""
