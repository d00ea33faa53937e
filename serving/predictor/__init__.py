"""The predictor: KServe's ModelServer with a Hounsfield package in it."""
