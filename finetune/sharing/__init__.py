"""What a finished run leaves for others: report, card, and a checkpoint that keeps its promise."""
