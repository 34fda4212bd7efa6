"""What is installed: the wheels, and the tree that `make install` makes."""
