"""How often the rollout decides wrongly, and how soon it decides: by simulation."""
