"""From a command line, files and checkpoints to the objects of a run."""
