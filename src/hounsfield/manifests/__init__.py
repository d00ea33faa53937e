"""What the manifests say, checked without a cluster: their schemas, their pods, who may reach and do what."""
