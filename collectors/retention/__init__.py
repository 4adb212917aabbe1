"""What is kept, how long, and how runs are removed."""
