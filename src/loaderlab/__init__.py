"""loaderlab: measures how a PyTorch training run is fed, and what feeding it better would bring."""
