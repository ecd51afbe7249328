"""What Hydra must find under `hydra_plugins`: thin shells; the work is in `harmonize.sweeps`."""
