"""Jobs and Experiments on Kubeflow: the only code that imports kubernetes and the Kubeflow clients."""
