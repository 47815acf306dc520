"""The same model behind other servers, for `benchmarks.peers`: each module `*_app` runs in an environment of its own."""
