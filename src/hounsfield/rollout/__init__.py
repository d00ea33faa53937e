"""The rollout: policy, evidence and decision are pure; one actuator edits a git tree."""
