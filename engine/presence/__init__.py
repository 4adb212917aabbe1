"""What a rank has for those who look at it from outside: a board, stacks, its flight recorder."""
