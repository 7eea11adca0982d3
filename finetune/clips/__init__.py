"""From a dataset of videos to clips: which frames, read from whichever store, as pixel_values."""
