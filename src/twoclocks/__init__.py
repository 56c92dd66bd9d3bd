"""twoclocks: what a training run is really doing."""
