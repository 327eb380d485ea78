"""Health probes for Kubernetes and load balancers."""
