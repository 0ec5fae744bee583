"""Making datasets: which photos are talked about, how they are split, what the sharer is told."""
