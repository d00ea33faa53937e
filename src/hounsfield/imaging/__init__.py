"""The image contract: the only preprocessing code, shared by training and serving."""
