"""A server in a world where all goes wrong: the objects of a live one, with time, model and faults
made up."""
