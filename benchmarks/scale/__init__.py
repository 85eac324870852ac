"""What the service's own storage and jobs cost as the number of videos grows (`python -m benchmarks.scale`)."""
