"""How long operators take, in every way that they are compared with."""
