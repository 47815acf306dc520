"""What several packages need to run: clocks, tasks, grouped calls, listening sockets, a bounded cache."""
