"""What clients and webhook receivers see of a job. Pure."""
