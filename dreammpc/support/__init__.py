"""Small helpers that know nothing of learning: files, names, progress, error reports."""
