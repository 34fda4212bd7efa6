"""What the node says about itself: logs, traces. Explains, and never decides."""
