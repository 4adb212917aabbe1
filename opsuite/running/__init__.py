"""Running somebody's command as a run: nothing of it is changed, and everything is seen."""
