"""What is measured around a run: of its hosts, devices, processes, logs and servers."""
