"""The algebra of length methods: small frozen slots, pure functions on [P, G] arrays, no JAX.

To be read in the order in which a batch meets them: `method` (what a method is), `groups`,
`context`, then the slots `condition`, `shape`, `task`, `length` (with `kernels`, `statistics`,
`memory`, `schedules`), `selection`, `advantage`, `credit`, `loss_spec`, `merge`; `weigh` puts them
together, `metrics` watches, `overlay` changes slots by YAML.
"""
