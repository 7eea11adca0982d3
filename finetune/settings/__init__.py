"""What a run was asked for: the command line over a recipe over the defaults."""
