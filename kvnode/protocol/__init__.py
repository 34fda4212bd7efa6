"""The protocols: pure state machines that decide. They get time, messages and randomness, and do no I/O."""
