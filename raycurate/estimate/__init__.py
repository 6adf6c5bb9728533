"""What a run will take before it runs: rows, seconds, bytes, memory, requests and money of every stage."""
