"""Where weights come from: the hub or a folder, and how a checkpoint is read."""
