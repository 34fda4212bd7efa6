"""What a node does to itself when it is asked to: faults of its links, its disk and its clock (`faults.enabled`)."""
