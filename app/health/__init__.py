"""What Kubernetes asks."""
