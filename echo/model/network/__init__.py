"""The transformer: its layers, its attention, and the keys and values it attends to."""
