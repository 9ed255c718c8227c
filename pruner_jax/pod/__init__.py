"""Many hosts: how their processes find each other, agree, and stop together."""
