"""What the provider and the executor `slurm` both know of Slurm."""
