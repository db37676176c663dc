"""Where runs are trained: one launcher a file."""
