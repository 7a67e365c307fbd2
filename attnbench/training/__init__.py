"""How a run trains: which examples, which updates, in which process."""
