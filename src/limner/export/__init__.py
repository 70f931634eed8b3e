"""What a trained network is written as: the layouts that other programs read, and the proof that they read it."""
