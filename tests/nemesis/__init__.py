"""Real nodes under random faults, and a judge of what their clients saw: see docs/nemesis.md."""
