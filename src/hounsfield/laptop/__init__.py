"""The laptop platform: the rendered manifests, run as local processes behind a real Envoy.

`render` gives the objects, `plan` says what they mean here (pure), `stack` makes it so. What the objects ask
for and the laptop cannot do is refused by name; what only a scheduler acts on (resources, security contexts,
replicas) is passed over.
"""
