"""One module a peer: `train` in its own best public way, with a lap at each epoch's end."""
