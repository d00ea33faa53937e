"""The explainer: KServe's ModelServer with a package in it that is asked why."""
