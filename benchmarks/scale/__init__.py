"""What the service's own storage and jobs cost as videos grow in number (`python -m benchmarks.scale`)."""
