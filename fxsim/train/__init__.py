"""Training: the loop, learning rates, augmentation, designs and checkpoints."""
