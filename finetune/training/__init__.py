"""How the weights learn, and what a run keeps on the disk while they do."""
